/* conv_i8_i8 with the dot product of ARMv8.2: 4 pixels x 32 channels in two passes, 4 inputs a step, 16 MACs an sdot. */
#include "conv_i8_i8.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)

BSK_INLINE int32x4_t dot(int32x4_t sum, int8x16_t x, int8x16_t w) { return vdotq_s32(sum, x, w); }

void bsk_conv_i8_i8_neondot(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                                                                     \
  int32x4_t a##p = vld1q_s32(tile->base[p] + first), b##p = vld1q_s32(tile->base[p] + first + 4);      \
  int32x4_t c##p = vld1q_s32(tile->base[p] + first + 8), d##p = vld1q_s32(tile->base[p] + first + 12); \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const int8_t *w = (const int8_t *)tile->weights + 4 * first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; ++i, w += 4 * BSK_GROUP) {
        const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32), w3 = vld1q_s8(w + 48);
#define STEP(p)                                                  \
  {                                                              \
    int32_t quad;                                                \
    memcpy(&quad, x##p + 4 * i, 4);                              \
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(quad)); \
    a##p = dot(a##p, v, w0), b##p = dot(b##p, v, w1);            \
    c##p = dot(c##p, v, w2), d##p = dot(d##p, v, w3);            \
  }
        PIXELS(STEP)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    int32_t *out = (int32_t *)acc + first;
#define STORE(p)                                                                  \
  vst1q_s32(out + p * BSK_GROUP, a##p), vst1q_s32(out + p * BSK_GROUP + 4, b##p); \
  vst1q_s32(out + p * BSK_GROUP + 8, c##p), vst1q_s32(out + p * BSK_GROUP + 12, d##p);
    PIXELS(STORE)
  }
}
