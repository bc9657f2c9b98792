/* 16 bytes of signs a step to 128 weights of +1 or -1. */
#include "conv_i8_w1.h"

void bsk_unpack_i8_scalar(const void *masks, void *weights, size_t steps) {
  const uint8_t *m = (const uint8_t *)masks;
  int8_t *w = (int8_t *)weights;
  for (size_t i = 0; i < steps * 16; ++i)
    for (int bit = 0; bit < 8; ++bit) w[8 * i + (size_t)bit] = (int8_t)(1 - 2 * ((m[i] >> bit) & 1));
}
