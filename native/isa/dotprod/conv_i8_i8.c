/* conv_i8_i8 with the dot product of ARMv8.2: 4 pixels x 32 channels in two passes, 4 inputs a step, 16 MACs an sdot.
 *
 * Four steps at once where there are four: 16 inputs of a pixel fill a register, of which sdot takes a quarter.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

#define TILE bsk_conv_i8_i8_neondot
#define PIXELS(X) X(0) X(1) X(2) X(3)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1) X(p, c, 2) X(p, d, 3)
#define VECTOR int32x4_t
#define ELEMENT int32_t
#define LANES 4
#define PASS 16
#define START(p, lane) vld1q_s32(tile->base[p] + (lane))
#define STORE(at, sum) vst1q_s32(at, sum)
#define LOAD(at) vld1q_s8((const int8_t *)(const void *)(at))
#define WEIGHTS(w) const int8x16_t w0 = LOAD(w), w1 = LOAD((w) + 16), w2 = LOAD((w) + 32), w3 = LOAD((w) + 48);
#define STEP(p)                                                   \
  {                                                               \
    int32_t quad;                                                 \
    memcpy(&quad, x##p + 4 * i, 4);                               \
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(quad));  \
    a##p = vdotq_s32(a##p, v, w0), b##p = vdotq_s32(b##p, v, w1); \
    c##p = vdotq_s32(c##p, v, w2), d##p = vdotq_s32(d##p, v, w3); \
  }
/* 16 inputs of a pixel, of which an sdot takes a quarter. */
#define WHOLE(p) const int8x16_t v##p = LOAD(x##p + 4 * i);
#define QUARTER(p, lane)                                                                      \
  a##p = vdotq_laneq_s32(a##p, w0, v##p, lane), b##p = vdotq_laneq_s32(b##p, w1, v##p, lane); \
  c##p = vdotq_laneq_s32(c##p, w2, v##p, lane), d##p = vdotq_laneq_s32(d##p, w3, v##p, lane);
#define QUARTERS(lane)                                                                      \
  {                                                                                         \
    WEIGHTS(w)                                                                              \
    QUARTER(0, lane) QUARTER(1, lane) QUARTER(2, lane) QUARTER(3, lane) w += 4 * BSK_GROUP; \
  }
#define FOUR PIXELS(WHOLE) QUARTERS(0) QUARTERS(1) QUARTERS(2) QUARTERS(3)
#include "tile.inl"
