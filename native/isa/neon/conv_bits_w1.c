/* conv_bits_w1 with NEON: 4 pixels x 32 channels in two passes, 32 inputs a step.
 *
 * eor + cnt + add of bytes, widened by pairwise sums every 31 steps (31 * 8 = 248 fits a byte).
 */
#include "conv_bits_w1/conv_bits_w1.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)
#define MAX_STEPS 31

BSK_INLINE void widen(int32_t *sum, uint8x16_t bytes) {
  const int32x4_t differ = vreinterpretq_s32_u32(vpaddlq_u16(vpaddlq_u8(bytes)));
  vst1q_s32(sum, vsubq_s32(vld1q_s32(sum), vaddq_s32(differ, differ)));
}

void bsk_conv_bits_w1_neon(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  const uint8x16_t zero = vdupq_n_u8(0);
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
    int32_t *out = (int32_t *)acc + first;
#define DECLARE(p)                                               \
  uint8x16_t a##p = zero, b##p = zero, c##p = zero, d##p = zero; \
  const char *x##p = (const char *)tile->px[p];                  \
  memcpy(out + p * BSK_GROUP, tile->base[p] + first, 16 * sizeof *out);
    PIXELS(DECLARE)
    const uint32_t *w = (const uint32_t *)tile->weights + first;
    size_t room = MAX_STEPS;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run;) {
        const size_t stop = run - i < room ? run : i + room;
        room -= stop - i;
        for (; i < stop; ++i, w += BSK_GROUP) {
          const uint32x4_t w0 = vld1q_u32(w), w1 = vld1q_u32(w + 4), w2 = vld1q_u32(w + 8), w3 = vld1q_u32(w + 12);
#define COUNT(sum, weights) sum = vaddq_u8(sum, vcntq_u8(vreinterpretq_u8_u32(veorq_u32(v, weights))));
#define STEP(p)                                                     \
  {                                                                 \
    uint32_t word;                                                  \
    memcpy(&word, x##p + 4 * i, 4);                                 \
    const uint32x4_t v = vdupq_n_u32(word);                         \
    COUNT(a##p, w0) COUNT(b##p, w1) COUNT(c##p, w2) COUNT(d##p, w3) \
  }
          PIXELS(STEP)
        }
        if (room == 0) {
#define WIDEN(p)                                                               \
  widen(out + p * BSK_GROUP, a##p), widen(out + p * BSK_GROUP + 4, b##p);      \
  widen(out + p * BSK_GROUP + 8, c##p), widen(out + p * BSK_GROUP + 12, d##p); \
  a##p = b##p = c##p = d##p = zero;
          PIXELS(WIDEN)
          room = MAX_STEPS;
        }
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    PIXELS(WIDEN)
  }
}
