/* A 3x3 convolution through XNNPACK's micro-kernels, for counting instructions: `xnnpack channels side`, a line a kernel.
 *
 * What its indirect convolution does: a pointer for each pixel and tap, then one call for a few pixels and all output
 * channels, requantisation included. Weights are zeros of the packed size: counts do not depend on values. `now` marks where counting
 * begins and ends, as in native/tests/speed.c.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/xnnpack/igemm.h"
#include "src/xnnpack/microparams.h"

void __attribute__((noinline, noclone)) now(void);
void now(void) {
  static volatile int calls;
  ++calls;
}

typedef void (*i8_kernel)(size_t, size_t, size_t, size_t, const int8_t **, const void *, int8_t *, size_t, size_t, size_t, const int8_t *,
                          const union xnn_qs8_qc8w_conv_minmax_params *);
typedef void (*f32_kernel)(size_t, size_t, size_t, size_t, const float **, const float *, float *, size_t, size_t, size_t, const float *,
                           const struct xnn_f32_minmax_params *);

#define I8(rows, name) {#name, rows, xnn_qs8_qc8w_igemm_minmax_fp32_ukernel_##name, NULL}
#define F32(rows, name) {#name, rows, NULL, xnn_f32_igemm_minmax_ukernel_##name}
static const struct {
  const char *name;
  size_t rows;
  i8_kernel i8;
  f32_kernel f32;
} kernels[] = {
    I8(4, 4x16__neonv8_mlal_lane), I8(2, 2x8c8__asm_aarch64_neon_mlal),    I8(4, 4x16c4__asm_aarch64_neondot_ld128),
    I8(4, 4x16c8__neoni8mm),       F32(6, 6x8__asm_aarch64_neonfma_ld128),
};

int main(int argc, char **argv) {
  const size_t channels = (size_t)atoi(argv[argc - 2]), side = (size_t)atoi(argv[argc - 1]), pixels = side * side, taps = 9;
  char *input = (char *)calloc((side + 2) * (side + 2) * channels, 4), *output = (char *)calloc((pixels + 8) * channels, 4);
  void *weights = calloc(channels * (channels * taps + 64), 8);
  const char **pointers = (const char **)calloc(taps * 8, sizeof *pointers);
  for (size_t k = 0; k < sizeof kernels / sizeof *kernels; ++k) {
    const size_t rows = kernels[k].rows, element = kernels[k].i8 ? 1 : 4;
    now();
    for (size_t pixel = 0; pixel < pixels; pixel += rows) {
      const size_t here = pixels - pixel < rows ? pixels - pixel : rows;
      for (size_t tap = 0; tap < taps; ++tap)
        for (size_t row = 0; row < rows; ++row) {
          const size_t at = pixel + (row < here ? row : here - 1);
          pointers[tap * rows + row] = input + ((at / side + tap / 3) * (side + 2) + at % side + tap % 3) * channels * element;
        }
      char *to = output + pixel * channels * element;
      if (kernels[k].i8) {
        union xnn_qs8_qc8w_conv_minmax_params params;
        memset(&params, 0, sizeof params);
        kernels[k].i8(here, channels, channels, taps * rows * sizeof(void *), (const int8_t **)pointers, weights, (int8_t *)to, channels, 16, 0,
                      (const int8_t *)input, &params);
      } else {
        const struct xnn_f32_minmax_params params = {{-1.0f, 1.0f}};
        kernels[k].f32(here, channels, 4 * channels, taps * rows * sizeof(void *), (const float **)(void *)pointers, (const float *)weights,
                       (float *)(void *)to, 4 * channels, 32, 0, (const float *)(void *)input, &params);
      }
    }
    now();
    printf("{\"variant\": \"%s\", \"types\": \"%s\"}\n", kernels[k].name, kernels[k].i8 ? "i8_i8" : "f32_f32");
  }
  return 0;
}
