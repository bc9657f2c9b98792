/* conv_i8_i8 with AMX: 32 pixels x 32 channels, 64 inputs a step; also runs 1-bit weights and signs as +/-1.
 *
 * Leans on tdpbssd (16384 MACs in 16 cycles). Four accumulator tiles, because its latency is 52 cycles. The packed
 * weights are already what a B tile wants: 16 rows (4 inputs each) of 16 channels. An A tile is 16 pixels, which needs
 * one stride from pixel to pixel; where a tile spans picture rows, its inputs are first gathered side by side.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} tile_config;

static void begin(void) {
  static const _Alignas(64) tile_config config = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&config);
}

static void end(void) { _tile_release(); }

/* 64 signs a word to bytes; bytes beyond the last channel are 0, so that weights there do not count. */
static void rows_signs(int8_t *dst, const uint64_t *src, size_t n, int c, int cp) {
  const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
  const int words = (c + 63) / 64;
  const __mmask64 last = c % 64 ? (1ull << (c % 64)) - 1 : ~0ull;
  for (size_t p = 0; p < n; ++p, dst += cp, src += words)
    for (int i = 0; i < words; ++i) {
      const __m512i signs = _mm512_mask_blend_epi8((__mmask64)src[i], plus, minus);
      _mm512_storeu_si512(dst + 64 * i, _mm512_maskz_mov_epi8(i + 1 < words ? ~0ull : last, signs));
    }
}

const bsk_special bsk_amx = {.step_align = 16, .least_inputs = 16, .least_width = 1, .line = 16, .begin = begin, .end = end, .rows_signs = NULL};
const bsk_special bsk_amx_signs = {.step_align = 16, .least_inputs = 33, .least_width = 16, .line = 16, .begin = begin, .end = end, .rows_signs = rows_signs};

/* The stride of 16 pixels, or 0 where there is none. */
BSK_INLINE ptrdiff_t stride_of(const void *const *px) {
  const ptrdiff_t stride = (const char *)px[1] - (const char *)px[0];
  for (int i = 2; i < 16; ++i)
    if ((const char *)px[i] - (const char *)px[i - 1] != stride) return 0;
  return stride;
}

#define BLOCK 16 /* 64-byte pieces of a pixel's row of taps that are gathered at once */

BSK_INLINE void gather(char *to, const void *const *px, size_t at, size_t bytes) {
  for (int i = 0; i < 16; ++i)
    for (size_t b = 0; b < bytes; b += 64) _mm512_store_si512(to + (size_t)i * 64 * BLOCK + b, _mm512_loadu_si512((const char *)px[i] + at + b));
}

void bsk_conv_i8_i8_amx(const bsk_tile *tile, void *acc) {
  _Alignas(64) char side[2][16 * 64 * BLOCK];
  const ptrdiff_t step0 = stride_of(tile->px), step1 = stride_of(tile->px + 16);
  const size_t run_bytes = 4 * (size_t)tile->run; /* a multiple of 64 */
  const char *w = (const char *)tile->weights;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int r = 0; r < tile->kh; ++r) {
    const size_t row = (size_t)r * tile->row_bytes;
    for (size_t from = 0; from < run_bytes; from += 64 * BLOCK) {
      const size_t bytes = run_bytes - from < 64 * BLOCK ? run_bytes - from : 64 * BLOCK;
      const char *x0 = (const char *)tile->px[0] + row + from, *x1 = (const char *)tile->px[16] + row + from;
      ptrdiff_t s0 = step0, s1 = step1;
      if (!s0) gather(side[0], tile->px, row + from, bytes), x0 = side[0], s0 = 64 * BLOCK;
      if (!s1) gather(side[1], tile->px + 16, row + from, bytes), x1 = side[1], s1 = 64 * BLOCK;
      for (size_t b = 0; b < bytes; b += 64, w += 64 * BSK_GROUP) {
        _tile_loadd(4, x0 + b, s0);
        _tile_loadd(6, w, 4 * BSK_GROUP);
        _tile_loadd(7, w + 64, 4 * BSK_GROUP);
        _tile_loadd(5, x1 + b, s1);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    }
  }
  int32_t *out = (int32_t *)acc;
  _tile_stored(0, out, 4 * BSK_GROUP);
  _tile_stored(1, out + 16, 4 * BSK_GROUP);
  _tile_stored(2, out + 16 * BSK_GROUP, 4 * BSK_GROUP);
  _tile_stored(3, out + 16 * BSK_GROUP + 16, 4 * BSK_GROUP);
  const __m512i base0 = _mm512_loadu_si512(tile->base[0]), base1 = _mm512_loadu_si512(tile->base[0] + 16);
  for (int p = 0; p < 32; ++p) { /* base is the same for all pixels: padding is real */
    _mm512_storeu_si512(out + p * BSK_GROUP, _mm512_add_epi32(_mm512_loadu_si512(out + p * BSK_GROUP), base0));
    _mm512_storeu_si512(out + p * BSK_GROUP + 16, _mm512_add_epi32(_mm512_loadu_si512(out + p * BSK_GROUP + 16), base1));
  }
}
