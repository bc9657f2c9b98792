/* Depthwise convolutions with channels in lanes: fmla on 4 floats; smlal on 4 int16, whose products int32 holds. */
#include <arm_neon.h>

#include "conv_grouped/conv_grouped.h"

void bsk_conv_depthwise_f32_neon(const bsk_grouped_call *call, void *acc) {
  const float *weights = (const float *)call->weights + call->first;
  int32_t lane = 0;
  for (; lane + 4 <= call->lanes; lane += 4)
    for (int32_t p = 0; p < call->pixels; ++p) {
      float *to = (float *)acc + (size_t)p * BSK_GROUP;
      float32x4_t sum_f32 = vld1q_f32(to + lane);
      for (int32_t t = 0; t < call->taps; ++t)
        sum_f32 = vfmaq_f32(sum_f32, vld1q_f32((const float *)bsk_grouped_pixel(call, t, p) + call->first + lane),
                            vld1q_f32(weights + (size_t)call->tap[t] * (size_t)call->padded + lane));
      vst1q_f32(to + lane, sum_f32);
    }
  bsk_depthwise_f32_rest(call, (float *)acc, lane);
}

void bsk_conv_depthwise_i8_neon(const bsk_grouped_call *call, void *acc) {
  const int16_t *weights = (const int16_t *)call->weights + call->first;
  const int16x8_t zero_i16 = vdupq_n_s16((int16_t)call->zero_point);
  int32_t lane = 0;
  for (; lane + 8 <= call->lanes; lane += 8)
    for (int32_t p = 0; p < call->pixels; ++p) {
      int32_t *to = (int32_t *)acc + (size_t)p * BSK_GROUP;
      int32x4_t low_i32 = vld1q_s32(to + lane), high_i32 = vld1q_s32(to + lane + 4);
      for (int32_t t = 0; t < call->taps; ++t) {
        const int16x8_t x_i16 = vsubq_s16(vmovl_s8(vld1_s8((const int8_t *)bsk_grouped_pixel(call, t, p) + call->first + lane)), zero_i16);
        const int16x8_t w_i16 = vld1q_s16(weights + (size_t)call->tap[t] * (size_t)call->padded + lane);
        low_i32 = vmlal_s16(low_i32, vget_low_s16(x_i16), vget_low_s16(w_i16));
        high_i32 = vmlal_s16(high_i32, vget_high_s16(x_i16), vget_high_s16(w_i16));
      }
      vst1q_s32(to + lane, low_i32);
      vst1q_s32(to + lane + 4, high_i32);
    }
  bsk_depthwise_i8_rest(call, (int32_t *)acc, lane);
}
