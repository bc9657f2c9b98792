/* Signs to +/-1: two bytes of signs repeated over 8 lanes each by a table lookup, their bits tested. */
#include "conv_i8_w1/conv_i8_w1.h"
#include <arm_neon.h>

void bsk_unpack_i8_neon(const void *masks, void *weights, size_t steps) {
  static const uint8_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bit = vcombine_u8(vld1_u8(bits), vld1_u8(bits)), one = vdupq_n_u8(1);
  const uint8x16_t pair = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
  const uint8_t *m = (const uint8_t *)masks;
  int8_t *w = (int8_t *)weights;
  for (size_t i = 0; i < steps; ++i, m += 16, w += 128) {
    const uint8x16_t signs = vld1q_u8(m);
#define PAIR(j) vst1q_s8(w + 16 * (j), vreinterpretq_s8_u8(vorrq_u8(vtstq_u8(vqtbl1q_u8(signs, vaddq_u8(pair, vdupq_n_u8(2 * (j)))), bit), one)));
    PAIR(0) PAIR(1) PAIR(2) PAIR(3) PAIR(4) PAIR(5) PAIR(6) PAIR(7)
  }
}

/* Bits and bytes stand in the same order, twice as many a step. */
void bsk_unpack_i8_wide_neon(const void *masks, void *weights, size_t steps) { bsk_unpack_i8_neon(masks, weights, 2 * steps); }
