/* A convolution kernel's tile by itself, on memory that stays in the first-level cache: what nothing around it can exceed. */
#include "dispatch.h"
#include "../kernels/winograd/winograd.h"
#include "packs.h"

#define WEIGHT_BYTES (16 * 1024) /* with the inputs they fit a first-level cache of 32 KiB */

double bsk_tile_drill(const bsk_conv_kernel *kernel, void *memory, size_t bytes, int repeats) {
  const bsk_special *special = kernel->special;
  const int groups = special && special->groups ? special->groups : 1;
  const int transformed = special && special->winograd; /* such tiles take int16 or float rows in steps of their pack */
  const size_t inputs = (size_t)packs[kernel->pack].inputs, ready = packs[kernel->pack].ready;
  const size_t step_bytes = inputs * row_element[kernel->rows];
  size_t steps = WEIGHT_BYTES / ready / (size_t)groups / 16 * 16;
  if (steps == 0) steps = 16;
  const size_t row = kernel->rows == BSK_ROWS_BITS ? 4 * steps : kernel->rows == BSK_ROWS_NIBBLES ? steps : step_bytes * steps;
  if (bytes < DRILL_BYTES ||
      row + 64 * BSK_MAX_PIXELS + 4 * 2 * BSK_GROUP + ready * (size_t)groups * steps > DRILL_BYTES - sizeof(int32_t) * BSK_MAX_PIXELS * BSK_GROUP)
    return 0.0;
  char *at = (char *)memory; /* accumulators, base, weights, rows; what they hold is all the same to the time */
  int32_t *acc = (int32_t *)memory;
  at += sizeof(int32_t) * BSK_MAX_PIXELS * BSK_GROUP;
  bsk_tile tile = {
      .weights = at + 4 * 2 * BSK_GROUP, .row_bytes = 0, .group_bytes = ready * steps, .kh = 1, .run = (int32_t)steps, .groups = groups, .n = kernel->pixels};
  for (int i = 0; i < kernel->pixels; ++i) {
    tile.base[i] = (const int32_t *)(const void *)at;
    tile.px[i] = at + 4 * 2 * BSK_GROUP + ready * (size_t)groups * steps + 64 * (size_t)i;
    tile.total[i] = 0;
  }
  if (special && special->begin) special->begin();
  for (int i = 0; i < repeats; ++i) kernel->run(&tile, acc);
  if (special && special->end) special->end();
  const double macs = (double)repeats * kernel->pixels * groups * BSK_GROUP * (double)(steps * inputs);
  if (!transformed) return macs;
  const double m = special->winograd->m, n = special->winograd->n;
  return macs * 9.0 * m * m / (n * n);
}
