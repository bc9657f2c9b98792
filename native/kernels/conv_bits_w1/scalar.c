/* The contract of conv_bits_w1: 4 pixels x 32 channels, plain C. */
#include "conv_bits_w1.h"

BSK_INLINE int32_t popcount32(uint32_t x) {
  x = x - ((x >> 1) & 0x55555555u);
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  return (int32_t)((x * 0x01010101u) >> 24);
}

void bsk_conv_bits_w1_scalar(const bsk_tile *tile, void *acc) {
  int32_t *out = (int32_t *)acc;
  const size_t row_steps = (size_t)tile->run;
  for (int p = 0; p < 4; ++p) {
    int32_t differ[BSK_GROUP] = {0};
    const uint32_t *w = (const uint32_t *)tile->weights;
    for (int r = 0; r < tile->kh; ++r) {
      const uint32_t *x = (const uint32_t *)(const void *)((const char *)tile->px[p] + (size_t)r * tile->row_bytes);
      for (size_t i = 0; i < row_steps; ++i, w += BSK_GROUP)
        for (int lane = 0; lane < BSK_GROUP; ++lane) differ[lane] += popcount32(x[i] ^ w[lane]);
    }
    for (int lane = 0; lane < BSK_GROUP; ++lane) out[p * BSK_GROUP + lane] = tile->base[p][lane] - 2 * differ[lane];
  }
}
