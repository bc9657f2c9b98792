/* The contract of grouped convolutions, in plain C. */
#include "conv_grouped.h"

void bsk_conv_depthwise_f32_scalar(const bsk_grouped_call *call, void *acc) { bsk_depthwise_f32_rest(call, (float *)acc, 0); }
void bsk_conv_depthwise_i8_scalar(const bsk_grouped_call *call, void *acc) { bsk_depthwise_i8_rest(call, (int32_t *)acc, 0); }

void bsk_conv_grouped_f32_scalar(const bsk_grouped_call *call, void *acc) {
  float *to = (float *)acc;
  for (int32_t p = 0; p < call->pixels; ++p, to += BSK_GROUP)
    for (int32_t lane = 0; lane < call->lanes; ++lane) {
      const int32_t o = call->first + lane;
      const size_t from = (size_t)(o / call->outputs) * (size_t)call->inputs;
      for (int32_t t = 0; t < call->taps; ++t) {
        const float *x = (const float *)bsk_grouped_pixel(call, t, p) + from;
        const float *w = (const float *)call->weights + ((size_t)o * (size_t)call->all_taps + (size_t)call->tap[t]) * (size_t)call->inputs;
        for (int32_t j = 0; j < call->inputs; ++j) to[lane] = to[lane] + x[j] * w[j];
      }
    }
}

void bsk_conv_grouped_i8_scalar(const bsk_grouped_call *call, void *acc) {
  int32_t *to = (int32_t *)acc;
  for (int32_t p = 0; p < call->pixels; ++p, to += BSK_GROUP)
    for (int32_t lane = 0; lane < call->lanes; ++lane) {
      const int32_t o = call->first + lane;
      const size_t from = (size_t)(o / call->outputs) * (size_t)call->inputs;
      for (int32_t t = 0; t < call->taps; ++t) {
        const int8_t *x = (const int8_t *)bsk_grouped_pixel(call, t, p) + from;
        const int8_t *w = (const int8_t *)call->weights + ((size_t)o * (size_t)call->all_taps + (size_t)call->tap[t]) * (size_t)call->inputs;
        for (int32_t j = 0; j < call->inputs; ++j) to[lane] += (x[j] - call->zero_point) * w[j];
      }
    }
}
