/* conv_i8_i8 with plain NEON: 4 pixels x 32 channels in four passes, 4 inputs a step, two steps in 16 bits.
 *
 * Products are int16; the sum of two is at most 2 * 128 * 127 = 32512, because weights stay in -127..127, so smlal on a product
 * is exact. Then pairs go to int32: two sums a channel, which are added at the end.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)
#define LANES 8 /* of a pass */

/* Of 4 channels: two steps, or one. */
#define TWO(low, high, x, y, w, v)                                                                            \
  low = vpadalq_s16(low, vmlal_s8(vmull_s8(vget_low_s8(x), vget_low_s8(w)), vget_low_s8(y), vget_low_s8(v))); \
  high = vpadalq_s16(high, vmlal_high_s8(vmull_high_s8(x, w), y, v));
#define ONE(low, high, x, w)                                        \
  low = vpadalq_s16(low, vmull_s8(vget_low_s8(x), vget_low_s8(w))); \
  high = vpadalq_s16(high, vmull_high_s8(x, w));

void bsk_conv_i8_i8_neon(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int first = 0; first < BSK_GROUP; first += LANES) {
#define DECLARE(p)                                                        \
  int32x4_t a##p = vdupq_n_s32(0), b##p = a##p, c##p = a##p, d##p = a##p; \
  const int8_t *x##p = (const int8_t *)tile->px[p];
    PIXELS(DECLARE)
    const int8_t *w = (const int8_t *)tile->weights + 4 * first;
    for (int r = tile->kh; r > 0; --r) {
      size_t i = 0;
      for (; i + 4 <= run; i += 4) {
#define LOAD(p) const int32x4_t v##p = vreinterpretq_s32_s8(vld1q_s8(x##p + 4 * i));
        PIXELS(LOAD)
#define QUAD(p, lane) vreinterpretq_s8_s32(vdupq_laneq_s32(v##p, lane))
#define PAIR(lane, p)                                           \
  {                                                             \
    const int8x16_t q = QUAD(p, lane), t = QUAD(p, (lane) + 1); \
    TWO(a##p, b##p, q, t, w0, w2) TWO(c##p, d##p, q, t, w1, w3) \
  }
#define STEPS(lane)                                                                          \
  {                                                                                          \
    const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);                                 \
    const int8x16_t w2 = vld1q_s8(w + 4 * BSK_GROUP), w3 = vld1q_s8(w + 4 * BSK_GROUP + 16); \
    PAIR(lane, 0) PAIR(lane, 1) PAIR(lane, 2) PAIR(lane, 3) w += 8 * BSK_GROUP;              \
  }
        STEPS(0)
        STEPS(2)
      }
      for (; i < run; ++i, w += 4 * BSK_GROUP) {
        const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);
#define SINGLE(p)                                                \
  {                                                              \
    int32_t quad;                                                \
    memcpy(&quad, x##p + 4 * i, 4);                              \
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(quad)); \
    ONE(a##p, b##p, q, w0) ONE(c##p, d##p, q, w1)                \
  }
        PIXELS(SINGLE)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    int32_t *out = (int32_t *)acc + first;
#define STORE(p)                                                                                       \
  vst1q_s32(out + p * BSK_GROUP, vaddq_s32(vpaddq_s32(a##p, b##p), vld1q_s32(tile->base[p] + first))); \
  vst1q_s32(out + p * BSK_GROUP + 4, vaddq_s32(vpaddq_s32(c##p, d##p), vld1q_s32(tile->base[p] + first + 4)));
    PIXELS(STORE)
  }
}
