/* int16 x int16 with plain NEON, for transformed inputs (winograd.h): 4 pixels x 16 channels in two passes, 2 inputs a step.
 *
 * smlal does 4 MACs, like smull + sadalp on bytes, but Winograd's filtering leaves a quarter of them. */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

#define TILE bsk_conv_i16_neon
#define PIXELS(X) X(0) X(1) X(2) X(3)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1) X(p, c, 2) X(p, d, 3)
#define VECTOR int32x4_t
#define ELEMENT int32_t
#define LANES 4
#define PASS 16
#define START(p, lane) vld1q_s32(tile->base[p] + (lane))
#define STORE(at, sum) vst1q_s32(at, sum)
#define LOAD(at) vld2q_s16((const int16_t *)(const void *)(at))
#define WEIGHTS(w) const int16x8x2_t u = LOAD(w), v = LOAD((w) + 32); /* first inputs, second inputs of 8 channels */
#define STEP(p)                                                                                        \
  {                                                                                                    \
    int16_t one, two;                                                                                  \
    memcpy(&one, x##p + 4 * i, 2), memcpy(&two, x##p + 4 * i + 2, 2);                                  \
    a##p = vmlal_n_s16(vmlal_n_s16(a##p, vget_low_s16(u.val[0]), one), vget_low_s16(u.val[1]), two);   \
    b##p = vmlal_n_s16(vmlal_n_s16(b##p, vget_high_s16(u.val[0]), one), vget_high_s16(u.val[1]), two); \
    c##p = vmlal_n_s16(vmlal_n_s16(c##p, vget_low_s16(v.val[0]), one), vget_low_s16(v.val[1]), two);   \
    d##p = vmlal_n_s16(vmlal_n_s16(d##p, vget_high_s16(v.val[0]), one), vget_high_s16(v.val[1]), two); \
  }
#include "tile.inl"
