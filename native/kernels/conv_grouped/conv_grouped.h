/* Convolutions with groups; those with one channel a group are depthwise and have kernels of their own. An instruction set
 * need not have all of them: where a line is missing, the next slower variant runs. */
#ifndef BSK_CONV_GROUPED_H
#define BSK_CONV_GROUPED_H
#include "../kernel.h"
#define BSK_GROUPED(dtype, depthwise, name, isa, needs) void bsk_##name(const bsk_grouped_call *call, void *acc);
#include "kernels.inc"
#undef BSK_GROUPED

/* Channels [lane, call->lanes) in plain C: all of a scalar kernel, the tail of the others. */
BSK_INLINE void bsk_depthwise_f32_rest(const bsk_grouped_call *call, float *acc, int32_t lane) {
  const float *weights = (const float *)call->weights;
  for (; lane < call->lanes; ++lane) {
    const size_t channel = (size_t)(call->first + lane);
    for (int32_t t = 0; t < call->taps; ++t)
      acc[lane] = acc[lane] + ((const float *)call->px[t])[channel] * weights[(size_t)call->tap[t] * (size_t)call->padded + channel];
  }
}

BSK_INLINE void bsk_depthwise_i8_rest(const bsk_grouped_call *call, int32_t *acc, int32_t lane) {
  const int16_t *weights = (const int16_t *)call->weights;
  for (; lane < call->lanes; ++lane) {
    const size_t channel = (size_t)(call->first + lane);
    for (int32_t t = 0; t < call->taps; ++t)
      acc[lane] += (((const int8_t *)call->px[t])[channel] - call->zero_point) * weights[(size_t)call->tap[t] * (size_t)call->padded + channel];
  }
}
#endif
