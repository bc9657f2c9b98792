/* int16 x int16 with plain NEON, for transformed inputs (winograd.h): 4 pixels x 16 channels in two passes, 2 inputs a step.
 *
 * smlal does 4 MACs, like smull + sadalp on bytes, but Winograd's filtering leaves a quarter of them. */
#include "conv_i8_i8/conv_i8_i8.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)

void bsk_conv_i16_neon(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                                                                     \
  int32x4_t a##p = vld1q_s32(tile->base[p] + first), b##p = vld1q_s32(tile->base[p] + first + 4);      \
  int32x4_t c##p = vld1q_s32(tile->base[p] + first + 8), d##p = vld1q_s32(tile->base[p] + first + 12); \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const int16_t *w = (const int16_t *)tile->weights + 2 * first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; ++i, w += 2 * BSK_GROUP) {
        const int16x8x2_t u = vld2q_s16(w), v = vld2q_s16(w + 16); /* first inputs, second inputs of 8 channels */
#define STEP(p)                                                                                        \
  {                                                                                                    \
    int16_t one, two;                                                                                  \
    memcpy(&one, x##p + 4 * i, 2), memcpy(&two, x##p + 4 * i + 2, 2);                                  \
    a##p = vmlal_n_s16(vmlal_n_s16(a##p, vget_low_s16(u.val[0]), one), vget_low_s16(u.val[1]), two);   \
    b##p = vmlal_n_s16(vmlal_n_s16(b##p, vget_high_s16(u.val[0]), one), vget_high_s16(u.val[1]), two); \
    c##p = vmlal_n_s16(vmlal_n_s16(c##p, vget_low_s16(v.val[0]), one), vget_low_s16(v.val[1]), two);   \
    d##p = vmlal_n_s16(vmlal_n_s16(d##p, vget_high_s16(v.val[0]), one), vget_high_s16(v.val[1]), two); \
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
