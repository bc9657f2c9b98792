/* Signs to +/-1: each byte of signs repeated over 8 lanes, its bits tested. */
#include "conv_i8_w1.h"
#include <arm_neon.h>

void bsk_unpack_i8_neon(const void *masks, void *weights, size_t steps) {
  static const uint8_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x8_t bit = vld1_u8(bits), one = vdup_n_u8(1);
  const uint8_t *m = (const uint8_t *)masks;
  int8_t *w = (int8_t *)weights;
  for (size_t i = 0; i < 16 * steps; ++i) vst1_s8(w + 8 * i, vreinterpret_s8_u8(vorr_u8(vtst_u8(vdup_n_u8(m[i]), bit), one)));
}

/* Bits and bytes stand in the same order, twice as many a step. */
void bsk_unpack_i8_wide_neon(const void *masks, void *weights, size_t steps) { bsk_unpack_i8_neon(masks, weights, 2 * steps); }
