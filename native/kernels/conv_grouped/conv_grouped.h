/* Convolutions with groups; those with one channel a group are depthwise and have kernels of their own. An instruction set
 * need not have all of them: where a line is missing, the next slower variant runs. */
#ifndef BSK_CONV_GROUPED_H
#define BSK_CONV_GROUPED_H
#include "../variants.h"

BSK_INLINE const void *bsk_grouped_pixel(const bsk_grouped_call *call, int32_t tap, int32_t p) {
  return (const char *)call->px[tap] + (size_t)p * call->pixel_bytes;
}

/* Channels [lane, call->lanes) in plain C: all of a scalar kernel, the tail of the others. */
BSK_INLINE void bsk_depthwise_f32_rest(const bsk_grouped_call *call, float *acc, int32_t lane) {
  const float *weights = (const float *)call->weights;
  for (int32_t p = 0; p < call->pixels; ++p, acc += BSK_GROUP)
    for (int32_t l = lane; l < call->lanes; ++l) {
      const size_t channel = (size_t)(call->first + l);
      for (int32_t t = 0; t < call->taps; ++t)
        acc[l] = acc[l] + ((const float *)bsk_grouped_pixel(call, t, p))[channel] * weights[(size_t)call->tap[t] * (size_t)call->padded + channel];
    }
}

BSK_INLINE void bsk_depthwise_i8_rest(const bsk_grouped_call *call, int32_t *acc, int32_t lane) {
  const int16_t *weights = (const int16_t *)call->weights;
  for (int32_t p = 0; p < call->pixels; ++p, acc += BSK_GROUP)
    for (int32_t l = lane; l < call->lanes; ++l) {
      const size_t channel = (size_t)(call->first + l);
      for (int32_t t = 0; t < call->taps; ++t)
        acc[l] +=
            (((const int8_t *)bsk_grouped_pixel(call, t, p))[channel] - call->zero_point) * weights[(size_t)call->tap[t] * (size_t)call->padded + channel];
    }
}
#endif
