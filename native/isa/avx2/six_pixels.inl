/* Sums of 6 pixels x 32 channels in two passes, of 3 pixels or fewer in one: at most 12 accumulators, 2 or 4 weights and an input. The including file
 * defines PRODUCTS(four, w): what 4 bytes of a pixel, in every lane, add to the 8 sums whose weights lie at `w`. */
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define UNROLL _Pragma("GCC unroll 8")

BSK_INLINE __m256i quad(const char *x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

/* `n` pixels x 8 * `vectors` channels from `first` on; both are constants where this is inlined. */
BSK_INLINE void block(const bsk_tile *tile, int32_t *acc, int first, const int n, const int vectors) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  __m256i sum[6][4];
  const char *x[6];
  UNROLL for (int p = 0; p < n; ++p) {
    x[p] = (const char *)tile->px[p];
    UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = LOAD(tile->base[p] + first + 8 * v);
  }
  const char *w = (const char *)tile->weights + 4 * first;
  for (int r = tile->kh; r > 0; --r) {
    for (size_t i = 0; i < run; ++i, w += 4 * BSK_GROUP) UNROLL for (int p = 0; p < n; ++p) {
        const __m256i four = quad(x[p] + 4 * i);
        UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = _mm256_add_epi32(sum[p][v], PRODUCTS(four, w + 32 * v));
      }
    UNROLL for (int p = 0; p < n; ++p) x[p] += row_bytes;
  }
  UNROLL for (int p = 0; p < n; ++p) UNROLL for (int v = 0; v < vectors; ++v)
      _mm256_storeu_si256((__m256i *)(void *)(acc + p * BSK_GROUP + first + 8 * v), sum[p][v]);
}

BSK_INLINE void six_pixels(const bsk_tile *tile, int32_t *out) {
  switch (tile->n) {
    case 1:
      block(tile, out, 0, 1, 4);
      break;
    case 2:
      block(tile, out, 0, 2, 4);
      break;
    case 3:
      block(tile, out, 0, 3, 4);
      break;
    case 4:
      block(tile, out, 0, 4, 2), block(tile, out, 16, 4, 2);
      break;
    case 5:
      block(tile, out, 0, 5, 2), block(tile, out, 16, 5, 2);
      break;
    default:
      block(tile, out, 0, 6, 2), block(tile, out, 16, 6, 2);
  }
}
