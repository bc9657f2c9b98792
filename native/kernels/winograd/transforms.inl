/* The transforms of winograd.h, one source for every instruction set: vectors of BSK_WINOGRAD_BYTES (32 or
 * 64), which compilers split where they are shorter. The including file defines that and BSK_WINOGRAD_ISA. */
#include "winograd.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define W BSK_WINOGRAD_BYTES
typedef int16_t i16v __attribute__((vector_size(W), may_alias));
typedef int8_t i8v __attribute__((vector_size(W / 2), may_alias)); /* as many */
typedef int32_t i32v __attribute__((vector_size(W), may_alias));
typedef uint32_t u32v __attribute__((vector_size(W), may_alias));
typedef float f32v __attribute__((vector_size(W), may_alias));

/* Anywhere in memory: memcpy of a vector makes gcc go through the stack in halves. */
typedef i16v i16u __attribute__((aligned(1)));
typedef i8v i8u __attribute__((aligned(1)));
typedef u32v u32u __attribute__((aligned(1)));
typedef f32v f32u __attribute__((aligned(1)));

BSK_INLINE i16v load_i8(const void *at, int16_t zero_point) {
#if BSK_WINOGRAD_BYTES == 32 && defined(__AVX2__) /* one instruction, which compilers do not find */
  const i16v x = (i16v)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)at));
#elif BSK_WINOGRAD_BYTES == 64 && defined(__AVX512BW__)
  const i16v x = (i16v)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)at));
#else
  const i16v x = __builtin_convertvector(*(const i8u *)at, i16v);
#endif
  return x - zero_point;
}
BSK_INLINE f32v load_f32(const void *at) { return *(const f32u *)at; }

#define UNROLL _Pragma("GCC unroll 36") /* the arrays below are registers, or spilled one by one */

/* d := B' d along one axis, in place; `s` elements apart. */
#define B2(d, s)                                        \
  {                                                     \
    const vec a = d[0] - d[2 * s], b = d[s] + d[2 * s]; \
    const vec c = d[2 * s] - d[s], e = d[s] - d[3 * s]; \
    d[0] = a, d[s] = b, d[2 * s] = c, d[3 * s] = e;     \
  }
#define B4(d, s)                                                                                \
  {                                                                                             \
    const vec d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s]; \
    const vec p = d4 - 4 * d2, q = d3 - 4 * d1, r = d4 - d2, t = 2 * (d3 - d1);                 \
    d[0] = p + (4 * d0 - d2), d[s] = p + q, d[2 * s] = p - q;                                   \
    d[3 * s] = r + t, d[4 * s] = r - t, d[5 * s] = d5 + 4 * d1 - 5 * d3;                        \
  }

/* Stride 2. */
#define B22(d, s)                                                         \
  {                                                                       \
    const vec a = d[0] - d[2 * s], b = d[2 * s], c = d[2 * s] - d[4 * s]; \
    const vec e = d[s], f = d[3 * s];                                     \
    d[0] = a, d[s] = b, d[2 * s] = c, d[3 * s] = e, d[4 * s] = f;         \
  }

/* `bytes` of an element in, `wide` of one out. */
#define INPUT(name, m, points, vector, anywhere, bytes, wide, LOAD_ONE)                                                                                  \
  static void name(void *v, size_t stride, const void *const *px, int c, int zero_point) {                                                               \
    enum { n = points, lanes = W / wide };                                                                                                               \
    typedef vector vec;                                                                                                                                  \
    (void)zero_point;                                                                                                                                    \
    for (int at = 0; at < c; at += lanes) {                                                                                                              \
      vec d[n * n];                                                                                                                                      \
      UNROLL for (int i = 0; i < n * n; ++i) d[i] = LOAD_ONE((const char *)px[i] + (size_t)at * bytes);                                                  \
      UNROLL for (int i = 0; i < n; ++i) B##m((d + i), n) UNROLL for (int i = 0; i < n; ++i) {                                                           \
        B##m((d + n * i), 1) UNROLL for (int j = 0; j < n; ++j) * (anywhere *)(void *)((char *)v + ((size_t)(n * i + j) * stride + (size_t)at) * wide) = \
            d[n * i + j];                                                                                                                                \
      }                                                                                                                                                  \
    }                                                                                                                                                    \
  }
#define LOAD_I8(at) load_i8(at, (int16_t)zero_point)
#define LOAD_F32(at) load_f32(at)
INPUT(input2_i8, 2, 4, i16v, i16u, 1, 2, LOAD_I8)
INPUT(input4_i8, 4, 6, i16v, i16u, 1, 2, LOAD_I8)
INPUT(input22_i8, 22, 5, i16v, i16u, 1, 2, LOAD_I8)
INPUT(input2_f32, 2, 4, f32v, f32u, 4, 4, LOAD_F32)
INPUT(input4_f32, 4, 6, f32v, f32u, 4, 4, LOAD_F32)

/* y := G x along one axis for three taps, whole numbers: x[0], x[1], x[2] to y[0], ... */
#define G2(y, x)                                                                  \
  {                                                                               \
    const vec sum = x[0] + x[2];                                                  \
    y[0] = x[0] + x[0], y[1] = sum + x[1], y[2] = sum - x[1], y[3] = x[2] + x[2]; \
  }
#define G4(y, x)                                                                 \
  {                                                                              \
    const vec sum = x[0] + x[2], more = x[0] + (x[2] << 2), twice = x[1] + x[1]; \
    y[0] = x[0], y[1] = sum + x[1], y[2] = sum - x[1];                           \
    y[3] = more + twice, y[4] = more - twice, y[5] = x[2];                       \
  }

#define G22(y, x)                                              \
  {                                                            \
    y[0] = x[0], y[1] = x[0] + x[2], y[2] = x[2], y[3] = x[1]; \
  }

/* Two rows of U: the rows of G that need the same sums of taps, or none, go together. */
#define EXPAND(name, m, points, first, second, third, fourth, fifth, sixth)                                                                          \
  BSK_INLINE void name##_rows(char *u, size_t apart, const char *packed, size_t steps, const int a, const int b) {                                   \
    enum { own = points, tap = 2 * BSK_GROUP };                                                                                                      \
    typedef i16v vec;                                                                                                                                \
    for (size_t step = 0; step < steps; ++step, packed += 9 * tap, u += 2 * (size_t)tap)                                                             \
      for (size_t at = 0; at < tap; at += W / 2) {                                                                                                   \
        vec g[3][3], rows[2][3], line[own];                                                                                                          \
        UNROLL for (int r = 0; r < 3; ++r) UNROLL for (int s = 0; s < 3; ++s) g[s][r] = load_i8(packed + (size_t)(3 * r + s) * tap + at, 0);         \
        UNROLL for (int s = 0; s < 3; ++s) { G##m(line, g[s]) rows[0][s] = line[a], rows[1][s] = line[b]; }                                          \
        UNROLL for (int which = 0; which < 2; ++which) {                                                                                             \
          G##m(line, rows[which]) UNROLL for (int j = 0; j < own; ++j) * (i16u *)(void *)(u + (size_t)(which * own + j) * apart + 2 * at) = line[j]; \
        }                                                                                                                                            \
      }                                                                                                                                              \
  }                                                                                                                                                  \
  static void name##_i8(void *u, size_t apart, const void *packed, size_t steps, int part) {                                                         \
    if (part == 0)                                                                                                                                   \
      name##_rows((char *)u, apart, (const char *)packed, steps, first, second);                                                                     \
    else if (part == 1)                                                                                                                              \
      name##_rows((char *)u, apart, (const char *)packed, steps, third, fourth);                                                                     \
    else                                                                                                                                             \
      name##_rows((char *)u, apart, (const char *)packed, steps, fifth, sixth);                                                                      \
  }
EXPAND(expand2, 2, 4, 0, 3, 1, 2, 1, 2)
EXPAND(expand4, 4, 6, 0, 5, 1, 2, 3, 4)
EXPAND(expand22, 22, 4, 0, 2, 1, 3, 1, 3)

/* y := A' x along one axis: x[0], x[s], ... to y[0], y[t], ... */
#define A2(y, t, x, s)                                  \
  {                                                     \
    const vec a = x[s] + x[2 * s], b = x[s] - x[2 * s]; \
    y[0] = x[0] + a, y[t] = b - x[3 * s];               \
  }
#define A22_u32(y, t, x, s)                                           \
  {                                                                   \
    y[0] = x[0] + x[s] + x[3 * s], y[t] = x[s] - x[2 * s] + x[4 * s]; \
  }
/* With the scales S of integers. */
#define A4_u32(y, t, x, s)                                                                  \
  {                                                                                         \
    const vec a = (x[s] + x[2 * s]) << 2, b = (x[s] - x[2 * s]) << 2;                       \
    const vec e = x[3 * s] + x[4 * s], f = x[3 * s] - x[4 * s];                             \
    y[0] = (x[0] << 2) + (x[0] << 1) - a + e, y[t] = (f << 1) - b, y[2 * t] = (e << 2) - a; \
    y[3 * t] = (f << 3) - b + (x[5 * s] << 4) + (x[5 * s] << 3);                            \
  }
#define A4_f32(y, t, x, s)                                                                                \
  {                                                                                                       \
    const vec a = x[s] + x[2 * s], b = x[s] - x[2 * s], e = x[3 * s] + x[4 * s], f = x[3 * s] - x[4 * s]; \
    y[0] = x[0] + a + e, y[t] = b + 2 * f, y[2 * t] = a + 4 * e, y[3 * t] = b + 8 * f + x[5 * s];         \
  }
#define A2_u32 A2
#define A2_f32 A2

/* What stands before Y is taken away. */
BSK_INLINE u32v by_4(u32v x) { return (u32v)((i32v)x >> 2); }
BSK_INLINE u32v by_576(u32v x) { return (u32v)((i32v)(x * 0x38e38e39u) >> 6); } /* 9 * 0x38e38e39 = 1 modulo 2^32 */
BSK_INLINE u32v whole(u32v x) { return x; }
BSK_INLINE f32v by_1(f32v x) { return x; }

#define OUTPUT(name, kind, m, points, vector, anywhere, type, LAST)                                                                      \
  static void name(void *y, size_t row, const void *mm, size_t stride) {                                                                 \
    enum { n = points };                                                                                                                 \
    typedef vector vec;                                                                                                                  \
    for (size_t at = 0; at < BSK_GROUP; at += W / 4) {                                                                                   \
      vec x[n * n], half[m * n], out[m];                                                                                                 \
      UNROLL for (int i = 0; i < n * n; ++i) x[i] = *(const anywhere *)(const void *)((const char *)mm + 4 * ((size_t)i * stride + at)); \
      UNROLL for (int i = 0; i < n; ++i) A##kind##_##type((half + i), n, (x + i), n) UNROLL for (int i = 0; i < m; ++i) {                \
        A##kind##_##type(out, 1, (half + n * i), 1) UNROLL for (int j = 0; j < m; ++j) {                                                 \
          const vec last = LAST(out[j]);                                                                                                 \
          *(anywhere *)(void *)((char *)y + 4 * ((size_t)i * row + (size_t)j * BSK_GROUP + at)) = last;                                  \
        }                                                                                                                                \
      }                                                                                                                                  \
    }                                                                                                                                    \
  }
OUTPUT(output2_i32, 2, 2, 4, u32v, u32u, u32, by_4)
OUTPUT(output4_i32, 4, 4, 6, u32v, u32u, u32, by_576)
OUTPUT(output22_i32, 22, 2, 5, u32v, u32u, u32, whole)
OUTPUT(output2_f32, 2, 2, 4, f32v, f32u, f32, by_1)
OUTPUT(output4_f32, 4, 4, 6, f32v, f32u, f32, by_1)

#define LIMIT(bits) ((int64_t)1 << (bits))
static const struct bsk_winograd winograd2_i8 = {2, 0, 1, 4, 2, 4, LIMIT(29), W / 2, {{0, 3}, {1, 2}}, input2_i8, output2_i32, expand2_i8};
static const struct bsk_winograd winograd4_i8 = {4, 0, 1, 6, 3, 6, LIMIT(25), W / 2, {{0, 5}, {1, 2}, {3, 4}}, input4_i8, output4_i32, expand4_i8};
static const struct bsk_winograd winograd22_i8 = {2, 0, 2, 5, 2, 4, LIMIT(31), W / 2, {{0, 2}, {1, 3}}, input22_i8, output22_i32, expand22_i8};
static const struct bsk_winograd winograd2_f32 = {2, 1, 1, 4, 2, 4, 0, W / 4, {{0, 3}, {1, 2}}, input2_f32, output2_f32, NULL};
static const struct bsk_winograd winograd4_f32 = {4, 1, 1, 6, 3, 6, 0, W / 4, {{0, 5}, {1, 2}, {3, 4}}, input4_f32, output4_f32, NULL};

#define SPECIAL(name) {.step_align = 1, .line = 1, .winograd = &name}
const bsk_special BSK_OF(bsk_winograd2_i8_, BSK_WINOGRAD_ISA) = SPECIAL(winograd2_i8), BSK_OF(bsk_winograd4_i8_, BSK_WINOGRAD_ISA) = SPECIAL(winograd4_i8);
const bsk_special BSK_OF(bsk_winograd22_i8_, BSK_WINOGRAD_ISA) = SPECIAL(winograd22_i8);
const bsk_special BSK_OF(bsk_winograd2_f32_, BSK_WINOGRAD_ISA) = SPECIAL(winograd2_f32), BSK_OF(bsk_winograd4_f32_, BSK_WINOGRAD_ISA) = SPECIAL(winograd4_f32);
