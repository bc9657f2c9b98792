/* The contract of the epilogues, in plain C. */
#include "epilogue.h"

#include <math.h>

/* exp in the steps of docs/program.md: rounded float32 operations, so the same on every target. */
static float exponential(float x) {
  static const float terms[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  x = x > -87.0f ? x : -87.0f;
  x = x < 87.0f ? x : 87.0f;
  const float n = rintf(x * 1.44269504088896340736f);
  const float r = (x - n * (355.0f / 512)) - n * -2.12194440054690583147e-4f;
  float total = terms[0];
  for (int k = 1; k < 8; ++k) total = total * r + terms[k];
  const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return total * power;
}

static float relu6(float y) {
  y = y > 0.0f ? y : 0.0f;
  return y < 6.0f ? y : 6.0f;
}

BSK_INLINE float activate(float y, int kind, const float *slope, const float *in, const float *out, size_t ch) {
  switch (kind) {
    case BSK_ACT_RELU:
      return y > 0.0f ? y : 0.0f;
    case BSK_ACT_PRELU:
      return y >= 0.0f ? y : y * slope[ch];
    case BSK_ACT_RPRELU:
      y = y - in[ch];
      y = y >= 0.0f ? y : y * slope[ch];
      return y + out[ch];
    case BSK_ACT_RELU6:
      return relu6(y);
    case BSK_ACT_SIGMOID:
      return 1.0f / (1.0f + exponential(-y));
    case BSK_ACT_HARD_SIGMOID:
      return relu6(y + 3.0f) * (1.0f / 6);
    case BSK_ACT_HARD_SWISH:
      return y * relu6(y + 3.0f) * (1.0f / 6);
    case BSK_ACT_SILU:
      return y * (1.0f / (1.0f + exponential(-y)));
    default:
      return y;
  }
}

BSK_INLINE int8_t saturate8(float y, int zero_point) {
  float r = rintf(y);
  r = r > -1024.0f ? r : -1024.0f; /* also where y is not a number */
  r = r < 1024.0f ? r : 1024.0f;
  const int q = (int)r + zero_point;
  return (int8_t)(q < -128 ? -128 : q > 127 ? 127 : q);
}

BSK_INLINE void epi_float(const bsk_epi_float *e, const bsk_epi_call *c, int from_i32) {
  const float *residual = (const float *)c->residual;
  for (int p = 0; p < c->n; ++p) {
    const size_t out_at = (size_t)p * c->out_stride, acc_at = (size_t)p * c->acc_stride;
    uint32_t word = 0;
    for (int lane = 0; lane < c->lanes; ++lane) {
      const size_t ch = (size_t)c->group * BSK_GROUP + (size_t)lane, l = (size_t)lane;
      float y = from_i32 ? (float)((const int32_t *)c->acc)[acc_at + l] : ((const float *)c->acc)[acc_at + l];
      y = y * e->scale[ch];
      y = y + e->bias[ch];
      y = activate(y, e->pre, e->pre_slope, e->pre_in, e->pre_out, ch);
      if (residual) y = y + residual[(size_t)p * c->residual_stride + l];
      y = activate(y, e->post, e->post_slope, e->post_in, e->post_out, ch);
      if (c->f32) c->f32[out_at + l] = y;
      if (c->i8) c->i8[out_at + l] = saturate8(y * e->inv_scale, e->out_zero_point);
      const float margin = y - e->threshold[ch];
      word |= (uint32_t)!(margin >= 0.0f) << lane;
    }
    if (c->bits) c->bits[(size_t)p * c->bits_stride] = word;
  }
}

void bsk_epi_float_f32_scalar(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 0); }
void bsk_epi_float_i32_scalar(const bsk_epi_float *e, const bsk_epi_call *c) { epi_float(e, c, 1); }

void bsk_epi_threshold_scalar(const bsk_epi_threshold *e, const bsk_epi_call *c) {
  for (int p = 0; p < c->n; ++p) {
    const int32_t *acc = (const int32_t *)c->acc + (size_t)p * c->acc_stride;
    const int32_t *t = e->t + (size_t)c->group * BSK_GROUP;
    uint32_t word = 0;
    for (int lane = 0; lane < c->lanes; ++lane) {
      const uint32_t keep = (e->keep[c->group] >> lane) & 1u;
      word |= ((uint32_t)(acc[lane] >= t[lane]) ^ keep) << lane;
    }
    c->bits[(size_t)p * c->bits_stride] = word;
  }
}

BSK_INLINE int64_t shift_right(int64_t t, int shift) { /* arithmetic on every compiler */ return t >= 0 ? t >> shift : ~(~t >> shift); }

void bsk_epi_integer_scalar(const bsk_epi_integer *e, const bsk_epi_call *c) {
  const int8_t *residual = (const int8_t *)c->residual;
  for (int p = 0; p < c->n; ++p) {
    for (int lane = 0; lane < c->lanes; ++lane) {
      const size_t ch = (size_t)c->group * BSK_GROUP + (size_t)lane, l = (size_t)lane;
      int64_t t = (int64_t)((const int32_t *)c->acc)[(size_t)p * c->acc_stride + l] * e->m[ch] + e->b[ch];
      if (e->pre_relu && t < 0) t = 0;
      if (residual) t += (int64_t)residual[(size_t)p * c->residual_stride + l] * e->residual_m;
      t += e->c1;
      if (e->post_relu && t < 0) t = 0;
      t = shift_right(t + e->c2, e->shift);
      c->i8[(size_t)p * c->out_stride + l] = (int8_t)(t < -128 ? -128 : t > 127 ? 127 : t);
    }
  }
}
