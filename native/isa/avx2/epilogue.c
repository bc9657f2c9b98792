/* Epilogues with AVX2: 8 channels a vector (4 for int64), tails by masked loads and stores. */
#include "epilogue/epilogue.h"
#include <immintrin.h>

static const int32_t masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

BSK_INLINE __m256i lanes_mask(int lanes) { return _mm256_loadu_si256((const __m256i *)(const void *)(masks + 8 - (lanes < 8 ? lanes : 8))); }

/* For the 4 bytes of each 8 lanes that packs of 32 lanes leave in this order. */
BSK_INLINE __m256i in_order(void) { return _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); }

typedef struct {
  __m256 slope, in, out;
} act_params;

BSK_INLINE __m256 leak(__m256 y, __m256 slope) { /* y >= 0 ? y : y * slope, the latter also where y is not a number */
  return _mm256_blendv_ps(y, _mm256_mul_ps(y, slope), _mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_NGE_UQ));
}

/* The scalar kernel's exp, step by step. */
BSK_INLINE __m256 exponential(__m256 x) {
  static const float terms[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f)); /* the second where x is not a number */
  x = _mm256_min_ps(x, _mm256_set1_ps(87.0f));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896340736f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 high = _mm256_mul_ps(n, _mm256_set1_ps(355.0f / 512)), low = _mm256_mul_ps(n, _mm256_set1_ps(-2.12194440054690583147e-4f));
  const __m256 r = _mm256_sub_ps(_mm256_sub_ps(x, high), low);
  __m256 total = _mm256_set1_ps(terms[0]);
  for (int k = 1; k < 8; ++k) total = _mm256_add_ps(_mm256_mul_ps(total, r), _mm256_set1_ps(terms[k]));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(total, _mm256_castsi256_ps(power));
}

BSK_INLINE __m256 sigmoid(__m256 y) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(one, _mm256_add_ps(one, exponential(_mm256_xor_ps(y, _mm256_set1_ps(-0.0f)))));
}

BSK_INLINE __m256 relu6(__m256 y) { return _mm256_min_ps(_mm256_max_ps(y, _mm256_setzero_ps()), _mm256_set1_ps(6.0f)); }

BSK_INLINE __m256 activate(__m256 y, int kind, const act_params *a) {
  switch (kind) {
    case BSK_ACT_RELU:
      return _mm256_max_ps(y, _mm256_setzero_ps());
    case BSK_ACT_PRELU:
      return leak(y, a->slope);
    case BSK_ACT_RPRELU:
      return _mm256_add_ps(leak(_mm256_sub_ps(y, a->in), a->slope), a->out);
    case BSK_ACT_RELU6:
      return relu6(y);
    case BSK_ACT_SIGMOID:
      return sigmoid(y);
    case BSK_ACT_HARD_SIGMOID:
      return _mm256_mul_ps(relu6(_mm256_add_ps(y, _mm256_set1_ps(3.0f))), _mm256_set1_ps(1.0f / 6));
    case BSK_ACT_HARD_SWISH:
      return _mm256_mul_ps(_mm256_mul_ps(y, relu6(_mm256_add_ps(y, _mm256_set1_ps(3.0f)))), _mm256_set1_ps(1.0f / 6));
    case BSK_ACT_SILU:
      return _mm256_mul_ps(y, sigmoid(y));
    default:
      return y;
  }
}

BSK_INLINE void part_float(const bsk_epi_float *e, const bsk_epi_call *call, int from_i32, int part, int pre, int post) {
  const bsk_epi_call copy = *call, *c = &copy; /* bytes are stored below, which could be anything that a pointer leads to */
  const int lanes = c->lanes - 8 * part, count = lanes < 8 ? lanes : 8;
  const __m256i valid = lanes_mask(lanes);
  const size_t ch = (size_t)c->group * BSK_GROUP + 8u * (size_t)part;
  const __m256 scale = _mm256_loadu_ps(e->scale + ch), bias = _mm256_loadu_ps(e->bias + ch);
  const __m256 threshold = _mm256_loadu_ps(e->threshold + ch);
  const __m256 inv_scale = _mm256_set1_ps(e->inv_scale), high = _mm256_set1_ps(1024.0f), low = _mm256_set1_ps(-1024.0f);
  const __m256i zero_point = _mm256_set1_epi32(e->out_zero_point);
  act_params a = {scale, scale, scale}, b = a;
  if (pre == BSK_ACT_PRELU || pre == BSK_ACT_RPRELU) a.slope = _mm256_loadu_ps(e->pre_slope + ch);
  if (pre == BSK_ACT_RPRELU) a.in = _mm256_loadu_ps(e->pre_in + ch), a.out = _mm256_loadu_ps(e->pre_out + ch);
  if (post == BSK_ACT_PRELU || post == BSK_ACT_RPRELU) b.slope = _mm256_loadu_ps(e->post_slope + ch);
  if (post == BSK_ACT_RPRELU) b.in = _mm256_loadu_ps(e->post_in + ch), b.out = _mm256_loadu_ps(e->post_out + ch);
  const float *residual = c->residual ? (const float *)c->residual + 8 * part : NULL;
  for (int p = 0; p < c->n; ++p) {
    const size_t at = (size_t)p * c->acc_stride + 8u * (size_t)part, out = (size_t)p * c->out_stride + 8u * (size_t)part;
    __m256 y =
        from_i32 ? _mm256_cvtepi32_ps(_mm256_maskload_epi32((const int32_t *)c->acc + at, valid)) : _mm256_maskload_ps((const float *)c->acc + at, valid);
    y = _mm256_add_ps(_mm256_mul_ps(y, scale), bias);
    y = activate(y, pre, &a);
    if (residual) y = _mm256_add_ps(y, _mm256_maskload_ps(residual + (size_t)p * c->residual_stride, valid));
    y = activate(y, post, &b);
    if (c->f32) { /* a masked store takes a dozen cycles on Zen */
      if (count == 8)
        _mm256_storeu_ps(c->f32 + out, y);
      else
        _mm256_maskstore_ps(c->f32 + out, valid, y);
    }
    if (c->bits) {
      const __m256 less = _mm256_cmp_ps(_mm256_sub_ps(y, threshold), _mm256_setzero_ps(), _CMP_NGE_UQ);
      ((uint8_t *)(void *)(c->bits + (size_t)p * c->bits_stride))[part] = (uint8_t)(_mm256_movemask_ps(less) & ((1 << count) - 1));
    }
    if (c->i8) {
      __m256 r = _mm256_round_ps(_mm256_mul_ps(y, inv_scale), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      r = _mm256_min_ps(_mm256_max_ps(r, low), high);
      const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(r), zero_point);
      const __m128i q16 = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
      int8_t bytes[16];
      _mm_storeu_si128((__m128i *)(void *)bytes, _mm_packs_epi16(q16, q16));
      if (count == 8)
        memcpy(c->i8 + out, bytes, 8);
      else
        memcpy(c->i8 + out, bytes, (size_t)count);
    }
  }
}

BSK_INLINE void epi_float(const bsk_epi_float *e, const bsk_epi_call *c, int from_i32) {
  for (int part = 0; part < 4; ++part) {
    if (c->lanes <= 8 * part) {
      if (c->bits)
        for (int p = 0; p < c->n; ++p) ((uint8_t *)(void *)(c->bits + (size_t)p * c->bits_stride))[part] = 0;
      continue;
    }
#define CASE(pre, post)                          \
  case pre * 4 + post:                           \
    part_float(e, c, from_i32, part, pre, post); \
    break;
    if (e->pre > BSK_ACT_RPRELU || e->post > BSK_ACT_RPRELU) {
      part_float(e, c, from_i32, part, e->pre, e->post); /* the kinds are not constants here: exp takes longer than a jump */
      continue;
    }
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

void bsk_epi_float_f32_avx2(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 0); }
void bsk_epi_float_i32_avx2(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 1); }

/* Which of 32 values lie below their thresholds, a bit each. */
BSK_INLINE uint32_t below(const int32_t *acc, const __m256i *t) {
  __m256i less[4];
  for (int i = 0; i < 4; ++i) less[i] = _mm256_cmpgt_epi32(t[i], _mm256_loadu_si256((const __m256i *)(const void *)(acc + 8 * i)));
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(less[0], less[1]), _mm256_packs_epi32(less[2], less[3]));
  return (uint32_t)_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(bytes, in_order()));
}

void bsk_epi_threshold_avx2(const bsk_epi_threshold *e, const bsk_epi_call *c) {
  const uint32_t keep = e->keep[c->group], valid = c->lanes >= 32 ? 0xffffffffu : (1u << c->lanes) - 1u;
  __m256i t[4];
  for (int i = 0; i < 4; ++i) t[i] = _mm256_loadu_si256((const __m256i *)(const void *)(e->t + (size_t)c->group * BSK_GROUP) + i);
  const int32_t *acc = (const int32_t *)c->acc;
  for (int p = 0; p < c->n; ++p, acc += c->acc_stride) {
    int32_t whole[BSK_GROUP];
    if (c->lanes < BSK_GROUP) memcpy(whole, acc, 4 * (size_t)c->lanes);
    c->bits[(size_t)p * c->bits_stride] = (~below(c->lanes < BSK_GROUP ? whole : acc, t) ^ keep) & valid;
  }
}

BSK_INLINE __m256i max0(__m256i t) { return _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_setzero_si256(), t), t); }

/* 8 channels a vector where every t >> shift fits int32. Where the shift is at most 32 (e->narrow), only 32 of the 64 bits after it matter,
 * which a logical shift gives for even channels and a left shift, in the upper halves, for odd ones; a blend joins them. Where it is
 * more (`far`), the upper halves of t are joined first and then shifted by the rest, as int32: t >> shift = (t >> 32) >> (shift - 32).
 * As in the AVX-512 kernel, constants added after each other are added once, and a relu that comes last is a maximum of bytes.
 */
BSK_INLINE int8_t saturated(int64_t c, int shift) {
  const int64_t q = c >= 0 ? c >> shift : ~(~c >> shift);
  return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

BSK_INLINE void part_narrow(const bsk_epi_integer *e, const bsk_epi_call *call, const int vectors, int with_residual, int early_relu, int far) {
  const bsk_epi_call copy = *call, *c = &copy; /* see part_float */
  const __m256i late = _mm256_set1_epi64x(e->c1 + e->c2), early = early_relu ? _mm256_setzero_si256() : late;
  const __m256i residual_m = _mm256_set1_epi64x(e->residual_m);
  const __m128i down = _mm_cvtsi32_si128(e->shift), up = _mm_cvtsi32_si128(32 - e->shift), rest = _mm_cvtsi32_si128(e->shift - 32);
  const int floored = e->post_relu || (e->pre_relu && !with_residual);
  const __m256i floor8 = _mm256_set1_epi8(floored ? saturated(e->c2, e->shift) : -128);
  __m256i m0[4], m1[4], b0[4], b1[4], q[4]; /* of even channels and of odd ones */
  for (int v = 0; v < vectors; ++v) {
    const size_t ch = (size_t)c->group * BSK_GROUP + 8u * (size_t)v;
    const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(e->b + ch)),
                  high = _mm256_loadu_si256((const __m256i *)(const void *)(e->b + ch + 4));
    m0[v] = _mm256_loadu_si256((const __m256i *)(const void *)(e->m + ch)), m1[v] = _mm256_srli_epi64(m0[v], 32);
    b0[v] = _mm256_add_epi64(_mm256_permute4x64_epi64(_mm256_unpacklo_epi64(low, high), 0xd8), early);
    b1[v] = _mm256_add_epi64(_mm256_permute4x64_epi64(_mm256_unpackhi_epi64(low, high), 0xd8), early);
  }
  for (int v = vectors; v < 4; ++v) q[v] = _mm256_setzero_si256();
  const int32_t *acc = (const int32_t *)c->acc;
  const int8_t *residual = (const int8_t *)c->residual;
  int8_t *out = c->i8;
  for (int p = 0; p < c->n; ++p) {
    for (int v = 0; v < vectors; ++v) {
      const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(acc + 8 * v));
      __m256i t0 = _mm256_add_epi64(_mm256_mul_epi32(a, m0[v]), b0[v]), t1 = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), m1[v]), b1[v]);
      if (early_relu) t0 = _mm256_add_epi64(max0(t0), late), t1 = _mm256_add_epi64(max0(t1), late);
      if (with_residual) {
        const __m256i r = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(residual + 8 * v)));
        t0 = _mm256_add_epi64(t0, _mm256_mul_epi32(r, residual_m));
        t1 = _mm256_add_epi64(t1, _mm256_mul_epi32(_mm256_srli_epi64(r, 32), residual_m));
      }
      q[v] = far ? _mm256_sra_epi32(_mm256_blend_epi32(_mm256_srli_epi64(t0, 32), t1, 0xaa), rest)
                 : _mm256_blend_epi32(_mm256_srl_epi64(t0, down), _mm256_sll_epi64(t1, up), 0xaa);
    }
    const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    const __m256i bytes = _mm256_max_epi8(_mm256_permutevar8x32_epi32(mixed, in_order()), floor8);
    if (vectors == 4)
      _mm256_storeu_si256((__m256i *)(void *)out, bytes);
    else {
      if (vectors > 1) _mm_storeu_si128((__m128i *)(void *)out, _mm256_castsi256_si128(bytes));
      if (vectors != 2)
        _mm_storel_epi64((__m128i *)(void *)(out + (vectors == 3 ? 16 : 0)), vectors == 3 ? _mm256_extracti128_si256(bytes, 1) : _mm256_castsi256_si128(bytes));
    }
    acc += c->acc_stride, out += c->out_stride;
    if (with_residual) residual += c->residual_stride;
  }
}

BSK_INLINE void narrow(const bsk_epi_integer *e, const bsk_epi_call *c, const int vectors) {
  const int far = e->shift > 32;
  if (!c->residual && !far)
    part_narrow(e, c, vectors, 0, 0, 0);
  else if (!c->residual)
    part_narrow(e, c, vectors, 0, 0, 1);
  else if (e->pre_relu)
    part_narrow(e, c, vectors, 1, 1, far);
  else
    part_narrow(e, c, vectors, 1, 0, far);
}

/* Any values, from channel `first` on. AVX2 has no arithmetic shift of int64: shift t + 2^63 as unsigned, then take
 * 2^(63 - shift) away. */
static void integer_wide(const bsk_epi_integer *e, const bsk_epi_call *c, int first) {
  const __m256i c1 = _mm256_set1_epi64x(e->c1), c2 = _mm256_set1_epi64x(e->c2), residual_m = _mm256_set1_epi64x(e->residual_m);
  const __m256i sign = _mm256_set1_epi64x((long long)(1ull << 63)), back = _mm256_set1_epi64x((long long)(1ull << (63 - e->shift)));
  const __m256i high = _mm256_set1_epi64x(127), low = _mm256_set1_epi64x(-128);
  const __m256i pick = _mm256_setr_epi32(0, 2, 4, 6, 0, 0, 0, 0);
  const __m128i shift = _mm_cvtsi32_si128(e->shift);
  const int whole = c->lanes / 4;
  for (int part = first / 4; part < whole; ++part) {
    const size_t ch = (size_t)c->group * BSK_GROUP + 4u * (size_t)part;
    const __m256i m = _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(const void *)(e->m + ch)));
    const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(e->b + ch));
    for (int p = 0; p < c->n; ++p) {
      const int32_t *acc = (const int32_t *)c->acc + (size_t)p * c->acc_stride + 4 * part;
      __m256i t = _mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)(const void *)acc));
      t = _mm256_add_epi64(_mm256_mul_epi32(t, m), b);
      if (e->pre_relu) t = max0(t);
      if (c->residual) {
        int32_t quad;
        memcpy(&quad, (const int8_t *)c->residual + (size_t)p * c->residual_stride + 4 * part, 4);
        t = _mm256_add_epi64(t, _mm256_mul_epi32(_mm256_cvtepi8_epi64(_mm_cvtsi32_si128(quad)), residual_m));
      }
      t = _mm256_add_epi64(t, c1);
      if (e->post_relu) t = max0(t);
      t = _mm256_xor_si256(_mm256_add_epi64(t, c2), sign);
      t = _mm256_sub_epi64(_mm256_srl_epi64(t, shift), back);
      t = _mm256_blendv_epi8(t, high, _mm256_cmpgt_epi64(t, high));
      t = _mm256_blendv_epi8(t, low, _mm256_cmpgt_epi64(low, t));
      const __m128i q = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(t, pick));
      const __m128i q16 = _mm_packs_epi32(q, q);
      const int32_t bytes = _mm_cvtsi128_si32(_mm_packs_epi16(q16, q16));
      memcpy(c->i8 + (size_t)p * c->out_stride + 4 * part, &bytes, 4);
    }
  }
  for (int lane = 4 * whole > first ? 4 * whole : first; lane < c->lanes; ++lane) { /* tail: the scalar kernel's steps on one channel */
    bsk_epi_integer one = *e;
    bsk_epi_call call = *c;
    const size_t ch = (size_t)c->group * BSK_GROUP + (size_t)lane;
    one.m = e->m + ch;
    one.b = e->b + ch;
    call.group = 0;
    call.lanes = 1;
    call.acc = (const int32_t *)c->acc + lane;
    call.residual = c->residual ? (const int8_t *)c->residual + lane : NULL;
    call.i8 = c->i8 + lane;
    bsk_epi_integer_scalar(&one, &call);
  }
}

void bsk_epi_integer_avx2(const bsk_epi_integer *e, const bsk_epi_call *c) {
  const int vectors = e->narrow || e->shift > 32 ? c->lanes / 8 : 0;
  if (vectors == 4)
    narrow(e, c, 4);
  else if (vectors == 3)
    narrow(e, c, 3);
  else if (vectors == 2)
    narrow(e, c, 2);
  else if (vectors == 1)
    narrow(e, c, 1);
  if (8 * vectors < c->lanes) integer_wide(e, c, 8 * vectors);
}
