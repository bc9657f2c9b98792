/* Signs to +/-1.0: the bit moved to the sign of 1.0. */
#include "conv_f32_w1/conv_f32_w1.h"
#include <arm_neon.h>

void bsk_unpack_f32_neon(const void *masks, void *weights, size_t steps) {
  static const int32_t ups[4] = {31, 30, 29, 28};
  const int32x4_t up = vld1q_s32(ups);
  const uint32x4_t sign = vdupq_n_u32(0x80000000u), one = vdupq_n_u32(0x3f800000u);
  const uint32_t *m = (const uint32_t *)masks;
  float *w = (float *)weights;
  for (size_t i = 0; i < steps; ++i)
    for (int part = 0; part < 8; ++part, w += 4)
      vst1q_f32(w, vreinterpretq_f32_u32(vorrq_u32(one, vandq_u32(sign, vshlq_u32(vdupq_n_u32(m[i] >> (4 * part)), up)))));
}
