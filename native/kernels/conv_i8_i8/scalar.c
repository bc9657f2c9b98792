/* The contract of conv_i8_i8: 4 pixels x 32 channels, plain C. */
#include "conv_i8_i8.h"

void bsk_conv_i8_i8_scalar(const bsk_tile *tile, void *acc) {
  int32_t *out = (int32_t *)acc;
  const size_t row_steps = (size_t)tile->run;
  for (int p = 0; p < 4; ++p) {
    int32_t sum[BSK_GROUP];
    memcpy(sum, tile->base[p], sizeof sum);
    const int8_t *w = (const int8_t *)tile->weights;
    for (int r = 0; r < tile->kh; ++r) {
      const uint8_t *x = (const uint8_t *)tile->px[p] + (size_t)r * tile->row_bytes;
      for (size_t i = 0; i < row_steps; ++i, x += 4, w += 4 * BSK_GROUP)
        for (int lane = 0; lane < BSK_GROUP; ++lane) sum[lane] += x[0] * w[4 * lane] + x[1] * w[4 * lane + 1] + x[2] * w[4 * lane + 2] + x[3] * w[4 * lane + 3];
    }
    memcpy(out + p * BSK_GROUP, sum, sizeof sum);
  }
}
