/* conv_i8_i8 with the matrix multiply of ARMv8.6 (FEAT_I8MM): 8 pixels x 32 channels in four passes, 16 inputs a step.
 *
 * Leans on smmla: 2 pixels x 8 inputs times 8 inputs x 2 channels, 32 MACs. A pair of pixels is zipped into both halves of
 * a register; the weights are packed that way. Also runs 1-bit weights, as +/-1.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

/* Two steps of 8 inputs at once, so that a pixel is read in whole registers. */
const bsk_special bsk_i8mm = {.step_align = 2, .least_inputs = 9, .least_width = 1, .line = 1};

#define PAIRS(X) X(0, 1, a) X(2, 3, b) X(4, 5, c) X(6, 7, d)
#define LANES 8 /* of a pass */

void bsk_conv_i8_i8_neoni8mm(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int first = 0; first < BSK_GROUP; first += LANES) {
#define BOTH(p, q, lane) vcombine_s32(vld1_s32(tile->base[p] + first + (lane)), vld1_s32(tile->base[q] + first + (lane)))
#define DECLARE(p, q, n)                                                                            \
  int32x4_t n##0 = BOTH(p, q, 0), n##1 = BOTH(p, q, 2), n##2 = BOTH(p, q, 4), n##3 = BOTH(p, q, 6); \
  const int8_t *x##p = (const int8_t *)tile->px[p], *x##q = (const int8_t *)tile->px[q];
    PAIRS(DECLARE)
    const int8_t *w = (const int8_t *)tile->weights + 8 * first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; i += 2, w += 2 * 8 * BSK_GROUP) {
#define LOAD(p, q, n)                                                                                                             \
  const int64x2_t n##p##x = vreinterpretq_s64_s8(vld1q_s8(x##p + 8 * i)), n##q##x = vreinterpretq_s64_s8(vld1q_s8(x##q + 8 * i)); \
  const int8x16_t n##low = vreinterpretq_s8_s64(vzip1q_s64(n##p##x, n##q##x)), n##high = vreinterpretq_s8_s64(vzip2q_s64(n##p##x, n##q##x));
        PAIRS(LOAD)
#define HALF(half, from)                                                                                               \
  {                                                                                                                    \
    const int8x16_t w0 = vld1q_s8(from), w1 = vld1q_s8(from + 16), w2 = vld1q_s8(from + 32), w3 = vld1q_s8(from + 48); \
    STEP(a, half) STEP(b, half) STEP(c, half) STEP(d, half)                                                            \
  }
#define STEP(n, half)                                                         \
  n##0 = vmmlaq_s32(n##0, n##half, w0), n##1 = vmmlaq_s32(n##1, n##half, w1); \
  n##2 = vmmlaq_s32(n##2, n##half, w2), n##3 = vmmlaq_s32(n##3, n##half, w3);
        HALF(low, w)
        HALF(high, w + 8 * BSK_GROUP)
      }
#define NEXT_ROW(p, q, n) x##p += row_bytes, x##q += row_bytes;
      PAIRS(NEXT_ROW)
    }
    int32_t *out = (int32_t *)acc + first;
#define STORE(p, q, n)                                                                                                             \
  vst1q_s32(out + p * BSK_GROUP, vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(n##0), vreinterpretq_s64_s32(n##1))));     \
  vst1q_s32(out + q * BSK_GROUP, vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(n##0), vreinterpretq_s64_s32(n##1))));     \
  vst1q_s32(out + p * BSK_GROUP + 4, vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(n##2), vreinterpretq_s64_s32(n##3)))); \
  vst1q_s32(out + q * BSK_GROUP + 4, vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(n##2), vreinterpretq_s64_s32(n##3))));
    PAIRS(STORE)
  }
}
