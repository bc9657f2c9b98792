/* conv_i8_i8 with AVX-VNNI, the 256-bit dot product of client processors: 6 pixels x 32 channels in two passes, 4 inputs
 * a step. As the AVX-512 kernel: the u8 operand is the activation.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))

void bsk_conv_i8_i8_avxvnni(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                                                    \
  __m256i a##p = LOAD(tile->base[p] + first), b##p = LOAD(tile->base[p] + first + 8); \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const char *w = (const char *)tile->weights + 4 * first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; ++i, w += 4 * BSK_GROUP) {
        const __m256i w0 = LOAD(w), w1 = LOAD(w + 32);
#define STEP(p)                                  \
  {                                              \
    int32_t quad;                                \
    memcpy(&quad, x##p + 4 * i, 4);              \
    const __m256i v = _mm256_set1_epi32(quad);   \
    a##p = _mm256_dpbusd_avx_epi32(a##p, v, w0); \
    b##p = _mm256_dpbusd_avx_epi32(b##p, v, w1); \
  }
        PIXELS(STEP)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    int32_t *out = (int32_t *)acc + first;
#define STORE(p)                                                       \
  _mm256_storeu_si256((__m256i *)(void *)(out + p * BSK_GROUP), a##p); \
  _mm256_storeu_si256((__m256i *)(void *)(out + p * BSK_GROUP + 8), b##p);
    PIXELS(STORE)
  }
}
