/* Epilogues with AVX-512: 16 channels a vector, tails by masks; a compare to a mask is the packed output. */
#include "epilogue/epilogue.h"
#include <immintrin.h>

typedef struct {
  __m512 slope, in, out;
} act_params;

BSK_INLINE __m512 activate(__m512 y, int kind, const act_params *a) {
  const __m512 zero = _mm512_setzero_ps();
  switch (kind) {
    case BSK_ACT_RELU:
      return _mm512_max_ps(y, zero);
    case BSK_ACT_PRELU:
      return _mm512_mask_mul_ps(y, _mm512_cmp_ps_mask(y, zero, _CMP_NGE_UQ), y, a->slope);
    case BSK_ACT_RPRELU:
      y = _mm512_sub_ps(y, a->in);
      y = _mm512_mask_mul_ps(y, _mm512_cmp_ps_mask(y, zero, _CMP_NGE_UQ), y, a->slope);
      return _mm512_add_ps(y, a->out);
    default:
      return y;
  }
}

/* One half group (16 channels) of every pixel; the kinds are constants at each place of use. */
BSK_INLINE void half_float(const bsk_epi_float *e, const bsk_epi_call *c, int from_i32, int half, int pre, int post) {
  const int lanes = c->lanes - 16 * half;
  const __mmask16 valid = (__mmask16)(lanes >= 16 ? 0xffffu : (1u << lanes) - 1u);
  const size_t ch = (size_t)c->group * BSK_GROUP + 16u * (size_t)half;
  const __m512 scale = _mm512_loadu_ps(e->scale + ch), bias = _mm512_loadu_ps(e->bias + ch);
  const __m512 threshold = _mm512_loadu_ps(e->threshold + ch);
  const __m512 inv_scale = _mm512_set1_ps(e->inv_scale), high = _mm512_set1_ps(1024.0f), low = _mm512_set1_ps(-1024.0f);
  const __m512i zero_point = _mm512_set1_epi32(e->out_zero_point);
  act_params a = {scale, scale, scale}, b = a;
  if (pre >= BSK_ACT_PRELU) a.slope = _mm512_loadu_ps(e->pre_slope + ch);
  if (pre == BSK_ACT_RPRELU) a.in = _mm512_loadu_ps(e->pre_in + ch), a.out = _mm512_loadu_ps(e->pre_out + ch);
  if (post >= BSK_ACT_PRELU) b.slope = _mm512_loadu_ps(e->post_slope + ch);
  if (post == BSK_ACT_RPRELU) b.in = _mm512_loadu_ps(e->post_in + ch), b.out = _mm512_loadu_ps(e->post_out + ch);
  const float *acc_f32 = (const float *)c->acc + 16 * half;
  const int32_t *acc_i32 = (const int32_t *)c->acc + 16 * half;
  const float *residual = c->residual ? (const float *)c->residual + 16 * half : NULL;
  float *f32 = c->f32 ? c->f32 + 16 * half : NULL;
  int8_t *i8 = c->i8 ? c->i8 + 16 * half : NULL;
  uint16_t *bits = c->bits ? (uint16_t *)(void *)c->bits + half : NULL;
  for (int p = 0; p < c->n; ++p) {
    __m512 y = from_i32 ? _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(valid, acc_i32)) : _mm512_maskz_loadu_ps(valid, acc_f32);
    acc_i32 += c->acc_stride, acc_f32 += c->acc_stride;
    y = _mm512_mul_ps(y, scale);
    y = _mm512_add_ps(y, bias);
    y = activate(y, pre, &a);
    if (residual) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(valid, residual)), residual += c->residual_stride;
    y = activate(y, post, &b);
    if (f32) _mm512_mask_storeu_ps(f32, valid, y), f32 += c->out_stride;
    if (bits) {
      *bits = (uint16_t)_mm512_mask_cmp_ps_mask(valid, _mm512_sub_ps(y, threshold), _mm512_setzero_ps(), _CMP_NGE_UQ);
      bits += 2 * c->bits_stride;
    }
    if (i8) {
      __m512 r = _mm512_roundscale_ps(_mm512_mul_ps(y, inv_scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      r = _mm512_min_ps(_mm512_max_ps(r, low), high);
      _mm512_mask_cvtsepi32_storeu_epi8(i8, valid, _mm512_add_epi32(_mm512_cvtps_epi32(r), zero_point));
      i8 += c->out_stride;
    }
  }
}

BSK_INLINE void epi_float(const bsk_epi_float *e, const bsk_epi_call *c, int from_i32) {
  for (int half = 0; half < 2; ++half) {
    if (c->lanes <= 16 * half) {
      if (c->bits)
        for (int p = 0; p < c->n; ++p) ((uint16_t *)(void *)(c->bits + (size_t)p * c->bits_stride))[half] = 0;
      continue;
    }
#define CASE(pre, post)                          \
  case pre * 4 + post:                           \
    half_float(e, c, from_i32, half, pre, post); \
    break;
    switch (e->pre * 4 + e->post) {
      /* clang-format off */
      CASE(0, 0) CASE(0, 1) CASE(0, 2) CASE(0, 3) CASE(1, 0) CASE(1, 1) CASE(1, 2) CASE(1, 3)
      CASE(2, 0) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(3, 0) CASE(3, 1) CASE(3, 2) CASE(3, 3)
      default: break;
      /* clang-format on */
    }
#undef CASE
  }
}

void bsk_epi_float_f32_avx512(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 0); }
void bsk_epi_float_i32_avx512(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 1); }

void bsk_epi_threshold_avx512(const bsk_epi_threshold *e, const bsk_epi_call *c) {
  const size_t ch = (size_t)c->group * BSK_GROUP;
  const __m512i t0 = _mm512_loadu_si512(e->t + ch), t1 = _mm512_loadu_si512(e->t + ch + 16);
  const uint32_t keep = e->keep[c->group];
  const uint32_t valid = c->lanes >= 32 ? 0xffffffffu : (1u << c->lanes) - 1u;
  const __mmask16 v0 = (__mmask16)(valid & 0xffffu), v1 = (__mmask16)(valid >> 16);
  const int32_t *acc = (const int32_t *)c->acc;
  uint32_t *bits = c->bits;
  for (int p = 0; p < c->n; ++p) {
    const __m512i a0 = _mm512_maskz_loadu_epi32(v0, acc), a1 = _mm512_maskz_loadu_epi32(v1, acc + 16);
    const uint32_t ge = (uint32_t)_mm512_cmpge_epi32_mask(a0, t0) | (uint32_t)_mm512_cmpge_epi32_mask(a1, t1) << 16;
    *bits = (ge ^ keep) & valid;
    acc += c->acc_stride;
    bits += c->bits_stride;
  }
}

/* Both int64 halves of 16 channels: even and odd channels, because vpmuldq multiplies the even int32 lanes.
 *
 * 1. A shift and the saturation keep order, so max(t, 0) before adding a constant c and shifting by s is a maximum of
 *    bytes after it, with saturate8(c >> s). Only a relu before a residual must be done in int64.
 * 2. All constants that are added after each other are added once.
 */
BSK_INLINE int8_t saturated(int64_t c, int shift) {
  const int64_t q = c >= 0 ? c >> shift : ~(~c >> shift);
  return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

BSK_INLINE __m512i above0(__m512i t) { return _mm512_mask_mov_epi64(t, _mm512_movepi64_mask(t), _mm512_setzero_si512()); }

BSK_INLINE void half_integer(const bsk_epi_integer *e, const bsk_epi_call *c, int half, int with_residual, int early_relu) {
  const int lanes = c->lanes - 16 * half;
  const __mmask16 valid = (__mmask16)(lanes >= 16 ? 0xffffu : (1u << lanes) - 1u);
  const size_t ch = (size_t)c->group * BSK_GROUP + 16u * (size_t)half;
  const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
  const __m512i m0 = _mm512_loadu_si512(e->m + ch), m1 = _mm512_srli_epi64(m0, 32);
  const __m512i low = _mm512_loadu_si512(e->b + ch), high = _mm512_loadu_si512(e->b + ch + 8);
  const __m512i late = _mm512_set1_epi64(e->c1 + e->c2), early = early_relu ? _mm512_setzero_si512() : late;
  const __m512i b0 = _mm512_add_epi64(_mm512_permutex2var_epi64(low, even, high), early);
  const __m512i b1 = _mm512_add_epi64(_mm512_permutex2var_epi64(low, odd, high), early);
  const __m512i residual_m = _mm512_set1_epi64(e->residual_m);
  const __m128i shift = _mm_cvtsi32_si128(e->shift);
  const int floored = e->post_relu || (e->pre_relu && !with_residual);
  const __m128i floor8 = _mm_set1_epi8(floored ? saturated(e->c2, e->shift) : -128);
  const int32_t *acc = (const int32_t *)c->acc + 16 * half;
  const int8_t *residual = with_residual ? (const int8_t *)c->residual + 16 * half : NULL;
  int8_t *out = c->i8 + 16 * half;
  for (int p = 0; p < c->n; ++p) {
    const __m512i a = _mm512_maskz_loadu_epi32(valid, acc);
    __m512i t0 = _mm512_add_epi64(_mm512_mul_epi32(a, m0), b0);
    __m512i t1 = _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(a, 32), m1), b1);
    if (early_relu) t0 = _mm512_add_epi64(above0(t0), late), t1 = _mm512_add_epi64(above0(t1), late);
    if (with_residual) {
      const __m512i r = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(valid, residual));
      t0 = _mm512_add_epi64(t0, _mm512_mul_epi32(r, residual_m));
      t1 = _mm512_add_epi64(t1, _mm512_mul_epi32(_mm512_srli_epi64(r, 32), residual_m));
      residual += c->residual_stride;
    }
    const __m128i q0 = _mm512_cvtsepi64_epi8(_mm512_sra_epi64(t0, shift)), q1 = _mm512_cvtsepi64_epi8(_mm512_sra_epi64(t1, shift));
    _mm_mask_storeu_epi8(out, valid, _mm_max_epi8(_mm_unpacklo_epi8(q0, q1), floor8));
    acc += c->acc_stride;
    out += c->out_stride;
  }
}

void bsk_epi_integer_avx512(const bsk_epi_integer *e, const bsk_epi_call *c) {
  for (int half = 0; 16 * half < c->lanes; ++half) {
    if (!c->residual)
      half_integer(e, c, half, 0, 0);
    else if (e->pre_relu)
      half_integer(e, c, half, 1, 1);
    else
      half_integer(e, c, half, 1, 0);
  }
}
