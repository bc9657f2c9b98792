/* conv_i8_i8 with the dot product of ARMv8.2: 4 pixels x 32 channels in two passes, 4 inputs a step, 16 MACs an sdot.
 *
 * Four steps at once where there are four: 16 inputs of a pixel fill a register, of which sdot takes a quarter.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)

void bsk_conv_i8_i8_neondot(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                                                                     \
  int32x4_t a##p = vld1q_s32(tile->base[p] + first), b##p = vld1q_s32(tile->base[p] + first + 4);      \
  int32x4_t c##p = vld1q_s32(tile->base[p] + first + 8), d##p = vld1q_s32(tile->base[p] + first + 12); \
  const int8_t *x##p = (const int8_t *)tile->px[p];
    PIXELS(DECLARE)
    const int8_t *w = (const int8_t *)tile->weights + 4 * first;
    for (int r = tile->kh; r > 0; --r) {
      size_t i = 0;
#define WEIGHTS const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32), w3 = vld1q_s8(w + 48)
      for (; i + 4 <= run; i += 4) {
#define LOAD(p) const int8x16_t v##p = vld1q_s8(x##p + 4 * i);
        PIXELS(LOAD)
#define QUARTER(p, lane)                                                                      \
  a##p = vdotq_laneq_s32(a##p, w0, v##p, lane), b##p = vdotq_laneq_s32(b##p, w1, v##p, lane); \
  c##p = vdotq_laneq_s32(c##p, w2, v##p, lane), d##p = vdotq_laneq_s32(d##p, w3, v##p, lane);
#define STEP(lane)                                                                          \
  {                                                                                         \
    WEIGHTS;                                                                                \
    QUARTER(0, lane) QUARTER(1, lane) QUARTER(2, lane) QUARTER(3, lane) w += 4 * BSK_GROUP; \
  }
        STEP(0) STEP(1) STEP(2) STEP(3)
      }
      for (; i < run; ++i, w += 4 * BSK_GROUP) {
        WEIGHTS;
#define SINGLE(p)                                                 \
  {                                                               \
    int32_t quad;                                                 \
    memcpy(&quad, x##p + 4 * i, 4);                               \
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(quad));  \
    a##p = vdotq_s32(a##p, v, w0), b##p = vdotq_s32(b##p, v, w1); \
    c##p = vdotq_s32(c##p, v, w2), d##p = vdotq_s32(d##p, v, w3); \
  }
        PIXELS(SINGLE)
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
