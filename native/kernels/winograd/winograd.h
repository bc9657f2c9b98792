/* 3x3 convolutions of stride 1 or 2 by minimal filtering, F(m x m, 3x3) (Lavin and Gray, 2016, arXiv 1509.09308): exact on integers.
 *
 * 1. m x m outputs come from (m + 2)^2 products a pair of channels instead of 9 m^2: 16 for 36 where m = 2, 36 for 144 where m = 4.
 *    For each of the (m + 2)^2 points: M = sum over channels of U V, with U = G g G' of the weights, V = B' d B of a tile of the input,
 *    and Y = A' M A.
 * 2. Integers: rows of G are scaled until they are whole. m = 2: 2 G, so that A' M A = 4 Y. m = 4: rows (1 0 0), (1 1 1), (1 -1 1),
 *    (1 2 4), (1 -2 4), (0 0 1), whose scales 1/4, -1/6, -1/6, 1/24, 1/24, 1 go to the other side, times 24: A' S M S A = 576 Y with
 *    S = diag(6, -4, -4, 1, 1, 24).
 * 3. Bounds: |d| <= 255, so |V| <= 4 * 255 = 1020 (m = 2) or 100 * 255 = 25,500 (m = 4), and |U| <= 9 * 127 = 1143 or 49 * 127 =
 *    6223: all fit int16, and the sum of two products fits int32.
 * 4. Sums of int32 may wrap, for all of it is arithmetic modulo 2^32. 4 Y is exact where |Y| < 2^29. 576 Y times the inverse of 9
 *    modulo 2^32 is 64 Y, exact where |Y| < 2^25. Which |Y| can occur is computed from the weights when constants are packed; where
 *    it is too large another kernel runs.
 * 5. Weights rest as the int8 of the file, [group][step][tap][lane][2], and U is made from them when a band of tiles needs it, two rows
 *    of points at a time: 9 bytes a weight come from memory instead of 32 or 72, for 3 to 4 operations a vector of U that at least
 *    4 tiles then use.
 * 6. Stride 2, m = 2: with g = (g0 g1 g2) and 5 inputs d0..d4 along an axis, y0 = (d0 - d2) g0 + d2 (g0 + g2) + d1 g1 and
 *    y1 = d2 (g0 + g2) - (d2 - d4) g2 + d3 g1: 5 products for 6, 25 for 36 along both, no scale, so that Y is exact wherever it fits
 *    int32. |V| <= 1020, |U| <= 4 * 127. The last two points of an axis share their U.
 * 7. Floats: G as it is, made when constants are packed; benchmarks/winograd_error.py measures the error.
 */
#ifndef BSK_WINOGRAD_H
#define BSK_WINOGRAD_H
#include "../variants.h"

#define BSK_WINOGRAD_POINTS 36
#define BSK_WINOGRAD_TILES 32 /* of a band, at most: what they take stays in a second-level cache of 512 KiB */

/* From point to point, in bytes: an odd number of cache lines, so that streams of all points do not meet in one set of a cache. */
#define BSK_WINOGRAD_APART(bytes) (((bytes) + 127) / 128 * 128 + 64)

/* V of one tile: px[n * n] are its pixels (int8 or float), `c` channels; v[point] is at v + point * stride
 * elements. */
typedef void (*bsk_winograd_input_fn)(void *v, size_t stride, const void *const *px, int c, int zero_point);
/* Y of one tile and one group from M, whose points are `stride` elements apart: m rows of m pixels, `row` and BSK_GROUP elements apart. */
typedef void (*bsk_winograd_output_fn)(void *y, size_t row, const void *mm, size_t stride);

/* Two rows of different U from packed int8 taps, each point as the tile reads it and `apart` bytes from the last: the rows named in
 * `rows` of bsk_winograd. */
typedef void (*bsk_winograd_expand_fn)(void *u, size_t apart, const void *packed, size_t steps, int part);

struct bsk_winograd {
  int m, is_float;
  int stride, n;          /* of the convolution; points along an axis */
  int parts, own;         /* pairs of rows of U; different U in a row: points from `own` on repeat the last one */
  int64_t limit;          /* |Y| below it is exact */
  int align;              /* the channels must be a multiple of it */
  signed char rows[3][2]; /* of each part */
  bsk_winograd_input_fn input;
  bsk_winograd_output_fn output;
  bsk_winograd_expand_fn expand; /* NULL: floats */
};
#endif
