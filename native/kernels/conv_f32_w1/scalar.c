/* 4 bytes of signs a step to 32 weights of +1.0 or -1.0. */
#include "conv_f32_w1.h"

void bsk_unpack_f32_scalar(const void *masks, void *weights, size_t steps) {
  const uint32_t *m = (const uint32_t *)masks;
  float *w = (float *)weights;
  for (size_t i = 0; i < steps; ++i)
    for (int lane = 0; lane < BSK_GROUP; ++lane) w[i * BSK_GROUP + (size_t)lane] = (m[i] >> lane) & 1u ? -1.0f : 1.0f;
}
