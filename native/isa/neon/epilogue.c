/* Epilogues with NEON: 4 channels a vector; groups with a tail below 4 channels go to the scalar kernel. */
#include "epilogue/epilogue.h"
#include <arm_neon.h>

BSK_INLINE float32x4_t leak(float32x4_t y, float32x4_t slope) { return vbslq_f32(vcgeq_f32(y, vdupq_n_f32(0.0f)), y, vmulq_f32(y, slope)); }

BSK_INLINE float32x4_t activate(float32x4_t y, int kind, const float *slope, const float *in, const float *out) {
  const float32x4_t zero = vdupq_n_f32(0.0f);
  switch (kind) {
    case BSK_ACT_RELU:
      return vbslq_f32(vcgtq_f32(y, zero), y, zero);
    case BSK_ACT_PRELU:
      return leak(y, vld1q_f32(slope));
    case BSK_ACT_RPRELU:
      return vaddq_f32(leak(vsubq_f32(y, vld1q_f32(in)), vld1q_f32(slope)), vld1q_f32(out));
    default:
      return y;
  }
}

#define AT(vector) ((vector) ? (vector) + ch : NULL)

BSK_INLINE void epi_float(const bsk_epi_float *e, const bsk_epi_call *c, int from_i32) {
  static const uint32_t ones[4] = {1, 2, 4, 8};
  const uint32x4_t bit = vld1q_u32(ones);
  if (c->bits)
    for (int p = 0; p < c->n; ++p) c->bits[(size_t)p * c->bits_stride] = 0;
  for (int first = 0; first < c->lanes; first += 4) {
    const size_t ch = (size_t)c->group * BSK_GROUP + (size_t)first, l = (size_t)first;
    const float32x4_t scale = vld1q_f32(e->scale + ch), bias = vld1q_f32(e->bias + ch), threshold = vld1q_f32(e->threshold + ch);
    const float32x4_t inv_scale = vdupq_n_f32(e->inv_scale), low = vdupq_n_f32(-1024.0f), high = vdupq_n_f32(1024.0f);
    const int32x4_t zero_point = vdupq_n_s32(e->out_zero_point);
    for (int p = 0; p < c->n; ++p) {
      const size_t at = (size_t)p * c->acc_stride + l, out = (size_t)p * c->out_stride + l;
      float32x4_t y = from_i32 ? vcvtq_f32_s32(vld1q_s32((const int32_t *)c->acc + at)) : vld1q_f32((const float *)c->acc + at);
      y = vaddq_f32(vmulq_f32(y, scale), bias);
      y = activate(y, e->pre, AT(e->pre_slope), AT(e->pre_in), AT(e->pre_out));
      if (c->residual) y = vaddq_f32(y, vld1q_f32((const float *)c->residual + (size_t)p * c->residual_stride + l));
      y = activate(y, e->post, AT(e->post_slope), AT(e->post_in), AT(e->post_out));
      if (c->f32) vst1q_f32(c->f32 + out, y);
      if (c->bits) {
        const uint32x4_t less = vmvnq_u32(vcgeq_f32(vsubq_f32(y, threshold), vdupq_n_f32(0.0f)));
        c->bits[(size_t)p * c->bits_stride] |= vaddvq_u32(vandq_u32(less, bit)) << first;
      }
      if (c->i8) {
        const float32x4_t r = vminnmq_f32(vmaxnmq_f32(vrndnq_f32(vmulq_f32(y, inv_scale)), low), high);
        const int16x4_t q16 = vqmovn_s32(vaddq_s32(vcvtq_s32_f32(r), zero_point));
        const int8x8_t q = vqmovn_s16(vcombine_s16(q16, q16));
        const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(q), 0);
        memcpy(c->i8 + out, &bytes, 4);
      }
    }
  }
}

void bsk_epi_float_f32_neon(const bsk_epi_float *e, const bsk_epi_call *c) {
  if (c->lanes % 4)
    bsk_epi_float_f32_scalar(e, c);
  else
    epi_float(e, c, 0);
}

void bsk_epi_float_i32_neon(const bsk_epi_float *e, const bsk_epi_call *c) {
  if (c->lanes % 4)
    bsk_epi_float_i32_scalar(e, c);
  else
    epi_float(e, c, 1);
}

void bsk_epi_threshold_neon(const bsk_epi_threshold *e, const bsk_epi_call *c) {
  if (c->lanes % 4) {
    bsk_epi_threshold_scalar(e, c);
    return;
  }
  static const uint32_t ones[4] = {1, 2, 4, 8};
  const uint32x4_t bit = vld1q_u32(ones);
  const int32_t *t = e->t + (size_t)c->group * BSK_GROUP;
  const uint32_t keep = e->keep[c->group], valid = c->lanes >= 32 ? 0xffffffffu : (1u << c->lanes) - 1u;
  for (int p = 0; p < c->n; ++p) {
    const int32_t *acc = (const int32_t *)c->acc + (size_t)p * c->acc_stride;
    uint32_t ge = 0;
    for (int first = 0; first < c->lanes; first += 4) ge |= vaddvq_u32(vandq_u32(vcgeq_s32(vld1q_s32(acc + first), vld1q_s32(t + first)), bit)) << first;
    c->bits[(size_t)p * c->bits_stride] = (ge ^ keep) & valid;
  }
}

typedef struct {
  int64x2_t c1, c2, right;
  int32x2_t residual_m;
  int pre_relu, post_relu;
} integer_steps;

BSK_INLINE int64x2_t max0(int64x2_t t) { return vbicq_s64(t, vreinterpretq_s64_u64(vcltzq_s64(t))); }

BSK_INLINE int32x2_t requantise(int32x2_t acc, int32x2_t m, int64x2_t b, int32x2_t residual, const integer_steps *s) {
  int64x2_t t = vmlal_s32(b, acc, m);
  if (s->pre_relu) t = max0(t);
  t = vaddq_s64(vmlal_s32(t, residual, s->residual_m), s->c1);
  if (s->post_relu) t = max0(t);
  return vqmovn_s64(vshlq_s64(vaddq_s64(t, s->c2), s->right));
}

void bsk_epi_integer_neon(const bsk_epi_integer *e, const bsk_epi_call *c) {
  if (c->lanes % 4) {
    bsk_epi_integer_scalar(e, c);
    return;
  }
  const integer_steps s = {vdupq_n_s64(e->c1), vdupq_n_s64(e->c2), vdupq_n_s64(-e->shift), vdup_n_s32(e->residual_m), e->pre_relu, e->post_relu};
  for (int first = 0; first < c->lanes; first += 4) {
    const size_t ch = (size_t)c->group * BSK_GROUP + (size_t)first;
    const int32x4_t m = vld1q_s32(e->m + ch);
    const int64x2_t b0 = vld1q_s64(e->b + ch), b1 = vld1q_s64(e->b + ch + 2);
    for (int p = 0; p < c->n; ++p) {
      const int32x4_t acc = vld1q_s32((const int32_t *)c->acc + (size_t)p * c->acc_stride + first);
      int32x4_t r = vdupq_n_s32(0);
      if (c->residual) {
        int32_t quad;
        memcpy(&quad, (const int8_t *)c->residual + (size_t)p * c->residual_stride + first, 4);
        r = vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(quad)))));
      }
      const int32x2_t q0 = requantise(vget_low_s32(acc), vget_low_s32(m), b0, vget_low_s32(r), &s);
      const int32x2_t q1 = requantise(vget_high_s32(acc), vget_high_s32(m), b1, vget_high_s32(r), &s);
      const int16x4_t q16 = vqmovn_s32(vcombine_s32(q0, q1));
      const int32_t bytes = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(q16, q16))), 0);
      memcpy(c->i8 + (size_t)p * c->out_stride + first, &bytes, 4);
    }
  }
}
