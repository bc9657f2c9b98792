/* tile.inl with a dot product of AVX-512 VNNI, MULTIPLY; TILE and PIXELS as there. */
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1)
#define VECTOR __m512i
#define ELEMENT int32_t
#define LANES 16
#define PASS 32
#define START(p, lane) _mm512_loadu_si512(tile->base[p] + (lane))
#define STORE(at, sum) _mm512_storeu_si512(at, sum)
#define WEIGHTS(w) const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512((w) + 64);
#define STEP(p)                                \
  {                                            \
    int32_t four;                              \
    memcpy(&four, x##p + 4 * i, 4);            \
    const __m512i v = _mm512_set1_epi32(four); \
    a##p = MULTIPLY(a##p, v, w0);              \
    b##p = MULTIPLY(b##p, v, w1);              \
  }
#include "tile.inl"
#undef MULTIPLY
