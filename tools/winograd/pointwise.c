// RPReLU and the clipped straight-through sign, forward and backward, each in one pass over its tensors.
//
// Tensors are float32, channels last: `pixels` (pictures x height x width) rows of `channels` numbers. Values
// round as torch's do; sums over pixels are taken in blocks and then in double.

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256 };

static void rprelu_row(const float *restrict x, const float *restrict shift_in, const float *restrict slope,
                       const float *restrict shift_out, float *restrict y, int channels) {
  for (int c = 0; c < channels; c++) {
    float z = x[c] - shift_in[c], bent = slope[c] * z;
    y[c] = (z > 0 ? z : bent) + shift_out[c];
  }
}

// y = prelu(x - shift_in) + shift_out
void rprelu_forward(const float *x, const float *shift_in, const float *slope, const float *shift_out, float *y,
                    long pixels, int channels, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long pixel = 0; pixel < pixels; pixel++)
    rprelu_row(x + pixel * channels, shift_in, slope, shift_out, y + pixel * channels, channels);
}

// dx of one pixel; its share of the sums that make the parameters' gradients is added.
static void rprelu_backward_row(const float *restrict x, const float *restrict dy, const float *restrict shift_in,
                                const float *restrict slope, float *restrict dx, float *restrict sum_dx,
                                float *restrict sum_slope, float *restrict sum_dy, int channels) {
  for (int c = 0; c < channels; c++) {
    float z = x[c] - shift_in[c], bent = slope[c] * dy[c], low = z > 0 ? 0 : z;
    float passed = z > 0 ? dy[c] : bent;
    dx[c] = passed;
    sum_dx[c] += passed;
    sum_slope[c] += dy[c] * low;
    sum_dy[c] += dy[c];
  }
}

// dx, and the gradients of shift_in, slope and shift_out in the rows of `dparameters` (3, channels).
// Returns 1 if memory ran out, else 0.
int rprelu_backward(const float *x, const float *dy, const float *shift_in, const float *slope, float *dx,
                    float *dparameters, long pixels, int channels, int threads) {
  int count = 3 * channels, failed = 0;
  double *total = calloc(count, sizeof(double));
  if (!total) return 1;
#pragma omp parallel num_threads(threads)
  {
    float *sums = malloc(count * sizeof(float));
    double *mine = calloc(count, sizeof(double));
    if (!sums || !mine) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(static)
    for (long first = 0; first < pixels; first += BLOCK) {
      if (!sums || !mine) continue;
      int rows = pixels - first < BLOCK ? (int)(pixels - first) : BLOCK;
      memset(sums, 0, count * sizeof(float));
      for (long at = first * channels; at < (first + rows) * channels; at += channels)
        rprelu_backward_row(x + at, dy + at, shift_in, slope, dx + at, sums, sums + channels, sums + 2 * channels,
                            channels);
      for (int i = 0; i < count; i++) mine[i] += sums[i];
    }
#pragma omp critical
    if (mine) {
      for (int i = 0; i < count; i++) total[i] += mine[i];
    }
    free(sums);
    free(mine);
  }
  for (int c = 0; c < channels; c++) {
    dparameters[c] = (float)-total[c];
    dparameters[channels + c] = (float)total[channels + c];
    dparameters[2 * channels + c] = (float)total[2 * channels + c];
  }
  free(total);
  return failed;
}

// y = +1 where x >= 0, else -1
void sign_forward(const float *x, float *y, long count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < count; i++) y[i] = x[i] >= 0 ? 1.0f : -1.0f;
}

// dx = dy where |x| <= 1, else 0
void sign_backward(const float *x, const float *dy, float *dx, long count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < count; i++) dx[i] = x[i] <= 1 && x[i] >= -1 ? dy[i] : 0;
}
