/* The contract of conv_f32_f32: 4 pixels x 32 channels, plain C. */
#include "conv_f32_f32.h"

void bsk_conv_f32_f32_scalar(const bsk_tile *tile, void *acc) {
  float *out = (float *)acc;
  const size_t row_steps = (size_t)tile->run;
  for (int p = 0; p < 4; ++p) {
    float sum[BSK_GROUP] = {0};
    const float *w = (const float *)tile->weights;
    for (int r = 0; r < tile->kh; ++r) {
      const float *x = (const float *)(const void *)((const char *)tile->px[p] + (size_t)r * tile->row_bytes);
      for (size_t i = 0; i < row_steps; ++i, w += BSK_GROUP)
        for (int lane = 0; lane < BSK_GROUP; ++lane) sum[lane] += x[i] * w[lane];
    }
    memcpy(out + p * BSK_GROUP, sum, sizeof sum);
  }
}
