/* 3x3 convolutions of stride 1 and padding 1 by Winograd's F(4x4, 3x3) in float32, and their gradients.
 *
 * Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks": an output tile of 4x4 costs 36
 * multiplications instead of 144. With x a tile of 6x6 inputs, w a filter and y the tile of 4x4 outputs,
 *
 *     y  = At [ (G w Gt) * (Bt x B) ] A
 *     dw = Gt [ (A dy At) * (Bt x B) ] G     summed over all tiles
 *
 * where * is elementwise; over channels each of the 36 elements is a matrix product. dx is the convolution of dy
 * with the turned filters. Pictures are (N, H, W, C), C a multiple of 16; filters are (O, I, 3, 3). Written with
 * the vector extensions of GCC and Clang: -march=native decides what they become.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define POINTS 36 /* elements of a transformed tile */
#define PANEL 16  /* output channels that the innermost product makes at a time */
#define ROWS 6    /* and rows of it */
#define MOST_ROWS 24 /* tiles a chunk at most: a chunk of 64 channels lies in a second-level cache of 512 KiB */
#define SPARE 16  /* floats between the points of a chunk, so that they do not all fall into the same cache sets */

typedef float v8 __attribute__((vector_size(32)));
typedef float v8_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

static inline v8 load(const float *p) { return *(const v8_unaligned *)p; }
static inline void store(float *p, v8 v) { *(v8_unaligned *)p = v; }

static size_t point_size(int rows, int channels) { return (size_t)rows * channels + SPARE; }

typedef struct {
  int n, height, width, tiles_y, tiles_x;
  int64_t tiles;
} Pictures;

static Pictures pictures(int n, int height, int width) {
  Pictures p = {n, height, width, (height + 3) / 4, (width + 3) / 4, 0};
  p.tiles = (int64_t)n * p.tiles_y * p.tiles_x;
  return p;
}

/* Where tile `t` begins: its picture, and the row and the column of its first output; 0 if there is no such tile. */
static int place(const Pictures *p, int64_t t, int64_t *picture, int *y, int *x) {
  if (t >= p->tiles) return 0;
  *x = 4 * (int)(t % p->tiles_x);
  *y = 4 * (int)(t / p->tiles_x % p->tiles_y);
  *picture = t / ((int64_t)p->tiles_x * p->tiles_y);
  return 1;
}

/* -- the transforms of one row or column of a tile --------------------------------------------------------- */

static inline void times_Bt(const v8 d[6], v8 *out, int step) {
  v8 a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
  out[0] = 4 * d[0] - 5 * d[2] + d[4];
  out[step] = a + b;
  out[2 * step] = a - b;
  out[3 * step] = c + e;
  out[4 * step] = c - e;
  out[5 * step] = 4 * d[1] - 5 * d[3] + d[5];
}

static inline void times_At(const v8 m[6], v8 *out, int step) {
  v8 a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
  out[0] = m[0] + a + c;
  out[step] = b + 2 * d;
  out[2 * step] = a + 4 * c;
  out[3 * step] = b + 8 * d + m[5];
}

static inline void times_A(const v8 y[4], v8 *out, int step) {
  v8 e = y[0] + y[2], f = y[1] + y[3], g = y[0] + 4 * y[2], h = 2 * y[1] + 8 * y[3];
  out[0] = y[0];
  out[step] = e + f;
  out[2 * step] = e - f;
  out[3 * step] = g + h;
  out[4 * step] = g - h;
  out[5 * step] = y[3];
}

static inline void times_G(const v8 w[3], v8 *out, int step) {
  v8 a = w[0] / 24 + w[2] / 6, b = w[1] / 12, c = (w[0] + w[2]) / 6, d = w[1] / 6;
  out[0] = w[0] / 4;
  out[step] = -c - d;
  out[2 * step] = d - c;
  out[3 * step] = a + b;
  out[4 * step] = a - b;
  out[5 * step] = w[2];
}

static inline void times_Gt(const v8 m[6], v8 *out, int step) {
  v8 a = m[1] + m[2], b = m[3] + m[4];
  out[0] = m[0] / 4 - a / 6 + b / 24;
  out[step] = (m[2] - m[1]) / 6 + (m[3] - m[4]) / 12;
  out[2 * step] = (b - a) / 6 + m[5];
}

/* -- whole tiles: `rows` of them from tile `first`, as out[POINTS][rows][channels] (and SPARE); zeros beyond the last ---- */

/* Where the channels of element `point` of the tile in `row` begin. */
static inline size_t element(int point, int rows, int row, int channels) {
  return point * point_size(rows, channels) + (size_t)row * channels;
}

static void no_tile(int rows, int row, int channels, float *out) {
  for (int k = 0; k < POINTS; k++) memset(out + element(k, rows, row, channels), 0, channels * sizeof(float));
}

static void input_tiles(const Pictures *p, const float *x, int channels, int64_t first, int rows, float *out) {
  for (int row = 0; row < rows; row++) {
    int64_t picture;
    int y0, x0;
    if (!place(p, first + row, &picture, &y0, &x0)) {
      no_tile(rows, row, channels, out);
      continue;
    }
    for (int c = 0; c < channels; c += 8) {
      v8 half[36], d[6], line[6];
      for (int j = 0; j < 6; j++) {
        int column = x0 + j - 1;
        for (int i = 0; i < 6; i++) {
          int line_of_x = y0 + i - 1;
          int inside = column >= 0 && column < p->width && line_of_x >= 0 && line_of_x < p->height;
          d[i] = inside ? load(x + ((picture * p->height + line_of_x) * p->width + column) * channels + c) : (v8){0};
        }
        times_Bt(d, half + j, 6);
      }
      for (int i = 0; i < 6; i++) {
        times_Bt(half + 6 * i, line, 1);
        for (int j = 0; j < 6; j++) store(out + element(6 * i + j, rows, row, channels) + c, line[j]);
      }
    }
  }
}

static void gradient_tiles(const Pictures *p, const float *dy, int channels, int64_t first, int rows, float *out) {
  for (int row = 0; row < rows; row++) {
    int64_t picture;
    int y0, x0;
    if (!place(p, first + row, &picture, &y0, &x0)) {
      no_tile(rows, row, channels, out);
      continue;
    }
    for (int c = 0; c < channels; c += 8) {
      v8 half[24], d[4], line[6];
      for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 4; i++) {
          int inside = x0 + j < p->width && y0 + i < p->height;
          d[i] = inside ? load(dy + ((picture * p->height + y0 + i) * p->width + x0 + j) * channels + c) : (v8){0};
        }
        times_A(d, half + j, 4);
      }
      for (int i = 0; i < 6; i++) {
        times_A(half + 4 * i, line, 1);
        for (int j = 0; j < 6; j++) store(out + element(6 * i + j, rows, row, channels) + c, line[j]);
      }
    }
  }
}

static void output_tiles(const Pictures *p, const float *in, int channels, int64_t first, int rows, float *y) {
  int64_t picture;
  int y0, x0;
  for (int row = 0; row < rows && place(p, first + row, &picture, &y0, &x0); row++) {
    for (int c = 0; c < channels; c += 8) {
      v8 half[24], m[6], line[4];
      for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++) m[i] = load(in + element(6 * i + j, rows, row, channels) + c);
        times_At(m, half + j, 6);
      }
      for (int i = 0; i < 4 && y0 + i < p->height; i++) {
        times_At(half + 6 * i, line, 1);
        for (int j = 0; j < 4 && x0 + j < p->width; j++)
          store(y + ((picture * p->height + y0 + i) * p->width + x0 + j) * channels + c, line[j]);
      }
    }
  }
}

/* -- the matrix products ----------------------------------------------------------------------------------- */

/* out[r][0..15] (+)= sum over k of a[r * a_row + k * a_k] * b[k * b_k + 0..15], for `count` <= ROWS rows */
static inline __attribute__((always_inline)) void block(int count, int add, const float *a, size_t a_row, size_t a_k,
                                                        const float *b, size_t b_k, int depth, float *out,
                                                        size_t out_row) {
  v8 left[ROWS], right[ROWS];
  for (int r = 0; r < count; r++) left[r] = right[r] = (v8){0};
  for (int k = 0; k < depth; k++, a += a_k, b += b_k) {
    v8 b_left = load(b), b_right = load(b + 8);
    for (int r = 0; r < count; r++) {
      float factor = a[r * a_row];
      left[r] += factor * b_left;
      right[r] += factor * b_right;
    }
  }
  for (int r = 0; r < count; r++, out += out_row) {
    store(out, add ? load(out) + left[r] : left[r]);
    store(out + 8, add ? load(out + 8) + right[r] : right[r]);
  }
}

static inline __attribute__((always_inline)) void product(int rows, int add, const float *a, size_t a_row, size_t a_k,
                                                          const float *b, size_t b_k, int depth, float *out,
                                                          size_t out_row) {
  int r = 0;
  for (; r + ROWS <= rows; r += ROWS) block(ROWS, add, a + r * a_row, a_row, a_k, b, b_k, depth, out + r * out_row, out_row);
  for (; r + 4 <= rows; r += 4) block(4, add, a + r * a_row, a_row, a_k, b, b_k, depth, out + r * out_row, out_row);
  for (; r + 2 <= rows; r += 2) block(2, add, a + r * a_row, a_row, a_k, b, b_k, depth, out + r * out_row, out_row);
}

/* G w Gt as out[POINTS][outputs / PANEL][inputs][PANEL] (and SPARE) */
static void filters(const float *w, int outputs, int inputs, float *out, int threads) {
  int panels = outputs / PANEL;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int panel = 0; panel < panels; panel++)
    for (int i = 0; i < inputs; i++)
      for (int part = 0; part < PANEL; part += 8) {
        v8 g[9], half[18], column[3], line[6];
        for (int l = 0; l < 8; l++)
          for (int e = 0; e < 9; e++) g[e][l] = w[((size_t)(panel * PANEL + part + l) * inputs + i) * 9 + e];
        for (int j = 0; j < 3; j++) {
          for (int e = 0; e < 3; e++) column[e] = g[3 * e + j];
          times_G(column, half + j, 3);
        }
        for (int r = 0; r < 6; r++) {
          times_G(half + 3 * r, line, 1);
          for (int j = 0; j < 6; j++)
            store(out + (6 * r + j) * point_size(outputs, inputs) + ((size_t)panel * inputs + i) * PANEL + part, line[j]);
        }
      }
}

/* Tiles a chunk: few enough for the caches, enough chunks for all threads. */
static int chunk(int64_t tiles, int threads) {
  int64_t share = (tiles + 2 * threads - 1) / (2 * threads);
  share = (share + ROWS - 1) / ROWS * ROWS;
  return (int)(share < MOST_ROWS ? share : MOST_ROWS);
}

static float *aligned(size_t floats) { return aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64); }

/* -- what is called ---------------------------------------------------------------------------------------- */

/* y (N, H, W, outputs) = x (N, H, W, inputs) convolved with w (outputs, inputs, 3, 3); returns 0, or 1 if out of memory */
int winograd_convolution(const float *x, const float *w, float *y, int n, int height, int width, int inputs,
                         int outputs, int threads) {
  Pictures p = pictures(n, height, width);
  int rows = chunk(p.tiles, threads), failed = 0;
  int64_t chunks = (p.tiles + rows - 1) / rows;
  size_t u_size = point_size(outputs, inputs);
  float *u = aligned(POINTS * u_size);
  if (u == NULL) return 1;
  filters(w, outputs, inputs, u, threads);
#pragma omp parallel num_threads(threads) reduction(| : failed)
  {
    size_t in_size = point_size(rows, inputs), out_size = point_size(rows, outputs);
    float *in = aligned(POINTS * in_size), *out = aligned(POINTS * out_size);
    failed = in == NULL || out == NULL;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < chunks; at++) {
      if (failed) continue;
      input_tiles(&p, x, inputs, at * rows, rows, in);
      for (size_t e = 0; e < POINTS; e++)
        for (size_t panel = 0; panel < (size_t)outputs / PANEL; panel++)
          product(rows, 0, in + e * in_size, inputs, 1, u + e * u_size + panel * inputs * PANEL, PANEL,
                  inputs, out + e * out_size + panel * PANEL, outputs);
      output_tiles(&p, out, outputs, at * rows, rows, y);
    }
    free(in);
    free(out);
  }
  free(u);
  return failed;
}

/* dw (outputs, inputs, 3, 3) of such a convolution, from x and dy; returns 0, or 1 if out of memory */
int winograd_filter_gradient(const float *x, const float *dy, float *dw, int n, int height, int width, int inputs,
                             int outputs, int threads) {
  Pictures p = pictures(n, height, width);
  int rows = chunk(p.tiles, threads), failed = 0;
  int64_t chunks = (p.tiles + rows - 1) / rows;
  size_t point = point_size(inputs, outputs), size = POINTS * point;
  float *sums = aligned(size * threads);
  if (sums == NULL) return 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : failed)
  for (int thread = 0; thread < threads; thread++) {
    size_t in_size = point_size(rows, inputs), out_size = point_size(rows, outputs);
    float *in = aligned(POINTS * in_size), *out = aligned(POINTS * out_size);
    float *sum = sums + size * thread;
    failed |= in == NULL || out == NULL;
    memset(sum, 0, size * sizeof(float));
    for (int64_t at = chunks * thread / threads; at < chunks * (thread + 1) / threads && !failed; at++) {
      input_tiles(&p, x, inputs, at * rows, rows, in);
      gradient_tiles(&p, dy, outputs, at * rows, rows, out);
      for (size_t e = 0; e < POINTS; e++)
        for (size_t panel = 0; panel < (size_t)outputs / PANEL; panel++)
          product(inputs, 1, in + e * in_size, 1, inputs, out + e * out_size + panel * PANEL, outputs, rows,
                  sum + e * point + panel * PANEL, outputs);
    }
    free(in);
    free(out);
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < inputs; i++)
    for (int o = 0; o < outputs; o += 8) {
      v8 m[6], half[18], column[6], line[3];
      for (int r = 0; r < 6; r++) {
        for (int j = 0; j < 6; j++) {
          m[j] = (v8){0};
          for (int thread = 0; thread < threads; thread++)
            m[j] += load(sums + size * thread + (6 * r + j) * point + (size_t)i * outputs + o);
        }
        times_Gt(m, half + 3 * r, 1);
      }
      for (int j = 0; j < 3; j++) {
        for (int r = 0; r < 6; r++) column[r] = half[3 * r + j];
        times_Gt(column, line, 1);
        for (int e = 0; e < 3; e++)
          for (int l = 0; l < 8; l++) dw[((size_t)(o + l) * inputs + i) * 9 + 3 * e + j] = line[e][l];
      }
    }
  free(sums);
  return failed;
}
