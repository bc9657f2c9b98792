/* Time of one convolution by every kernel that this machine has for it, taking turns; for choosing between kernels.
 *
 *     speed [rounds]              every shape below
 *     speed rounds i8_w1 64 64 32 3 1    types, channels in and out, side of the picture, side of the kernel, stride
 *     ... --json                  a JSON object a line
 *     ... --scalar [--json]       the scalar kernels too
 *
 * The least time of all rounds is shown, for what disturbs a run only ever adds; integer networks' epilogue is part of it.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <string.h>

#include "conv_op.h"
#include "dispatch.h"

/* Also the mark from which benchmarks/executed_arm.py counts. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e6 + 1e-3 * (double)t.tv_nsec;
}

static const struct {
  const char *name;
  int in, weights;
} types[] = {
    {"bits_w1", BSK_BITS, BSK_BITS}, {"i8_w1", BSK_I8, BSK_BITS}, {"i8_i8", BSK_I8, BSK_I8}, {"f32_w1", BSK_F32, BSK_BITS}, {"f32_f32", BSK_F32, BSK_F32}};

static const int shapes[][5] = {{64, 64, 32, 3, 1},  {128, 128, 16, 3, 1}, {256, 256, 8, 3, 1}, {64, 128, 32, 3, 2},
                                {64, 128, 32, 1, 2}, {64, 64, 56, 3, 1},   {256, 64, 56, 1, 1}, {512, 512, 7, 3, 1}};

#define MAX_VARIANTS 16
static int as_json, with_scalar;

static void measure(int type, const int *s, int rounds) {
  const int ci = s[0], co = s[1], side = s[2], k = s[3], stride = s[4], pad = k / 2, o = (side + 2 * pad - k) / stride + 1;
  const int in = types[type].in;
  size_t in_bytes = (size_t)side * (size_t)side * (in == BSK_BITS ? ((size_t)ci + 63) / 64 * 8 : (size_t)ci * (in == BSK_F32 ? 4 : 1));
  in_bytes = (in_bytes + 63) / 64 * 64;
  const size_t arena = in_bytes + (size_t)o * (size_t)o * (size_t)co * 4 + 64;
  const size_t weights = (size_t)co * (size_t)k * (size_t)k * ((size_t)ci + 63) * 4;
  char *memory = (char *)aligned(arena + weights + 64);
  float *ones = (float *)malloc((size_t)co * 4);
  int32_t *m = (int32_t *)calloc((size_t)co, 4), *t = (int32_t *)calloc((size_t)co, 4);
  int64_t *b = (int64_t *)calloc((size_t)co, 8);
  for (int i = 0; i < co; ++i) ones[i] = 1.0f, m[i] = 100000;
  char *w = memory + (arena + 63) / 64 * 64;
  for (size_t i = 0; i < weights; ++i) w[i] = (char)(rand() % 255 - 127);
  if (types[type].weights == BSK_F32)
    for (size_t i = 0; i < weights / 4; ++i) ((float *)(void *)w)[i] = (float)rand() / (float)RAND_MAX - 0.5f;
  for (size_t i = 0; i < in_bytes; ++i) memory[i] = (char)(rand() % 64 - (in == BSK_I8 ? 128 : 0)); /* as behind a relu */
  const bsk_tensor from = {in, side, side, ci, in == BSK_I8 ? -128 : 0, 0};
  bsk_op op = conv_op(from, k, stride, types[type].weights, w);
  bsk_tensor out = {BSK_I8, o, o, co, 0, (int64_t)in_bytes};
  if (in == BSK_F32) {
    out.dtype = BSK_F32, op.out_f32 = out, op.epi.kind = BSK_EPI_FLOAT, op.epi.scale = ones, op.epi.bias = ones;
  } else if (in == BSK_I8) {
    op.out_i8 = out, op.epi.kind = BSK_EPI_INTEGER, op.epi.m = m, op.epi.b = b, op.epi.shift = 24, op.epi.pre.kind = BSK_ACT_RELU;
  } else {
    out.dtype = BSK_BITS, op.out_bits = out, op.epi.kind = BSK_EPI_THRESHOLD, op.epi.t = t;
  }
  const char *names[MAX_VARIANTS];
  bsk_engine *engines[MAX_VARIANTS];
  void *blocks[MAX_VARIANTS], *scratch[MAX_VARIANTS];
  double least[MAX_VARIANTS];
  int found = 0;
  for (size_t i = 0; bsk_conv_variant(i) && found < MAX_VARIANTS; ++i) {
    const char *name = bsk_conv_variant(i)->name;
    bsk_sizes sizes;
    bsk_conv_prefer(name);
    if (bsk_engine_bytes(&op, 1, arena, BSK_ISA_BEST, &sizes) != BSK_OK) continue;
    blocks[found] = aligned(sizes.engine_bytes), scratch[found] = aligned(sizes.scratch_bytes);
    bsk_engine_init(&op, 1, arena, BSK_ISA_BEST, blocks[found], sizes.engine_bytes, &engines[found]);
    if (strcmp(bsk_engine_kernel(engines[found], 0), name) != 0 || (!with_scalar && strstr(name, "scalar"))) {
      free(blocks[found]), free(scratch[found]);
      continue;
    }
    names[found] = name, least[found] = 1e9;
    ++found;
  }
  bsk_conv_prefer(NULL);
  for (int r = 0; r < rounds; ++r)
    for (int v = 0; v < found; ++v) {
      const double start = now();
      bsk_engine_run_op(engines[v], 0, NULL, memory, scratch[v], 0, 1);
      const double took = now() - start;
      if (took < least[v]) least[v] = took;
    }
  const double macs = (double)o * o * co * ci * k * k;
  for (int v = 0; v < found; ++v) {
    if (as_json)
      printf(
          "{\"types\": \"%s\", \"inputs\": %d, \"outputs\": %d, \"side\": %d, \"kernel\": %d, \"stride\": %d, \"variant\": \"%s\", \"us\": %.2f, "
          "\"macs_per_ns\": %.2f}\n",
          types[type].name, ci, co, side, k, stride, names[v], least[v], macs / least[v] / 1e3);
    else
      printf("%-8s %4d -> %4d %3dx%-3d kernel %d stride %d  %-24s %9.1f us %7.1f MACs/ns\n", types[type].name, ci, co, side, side, k, stride, names[v],
             least[v], macs / least[v] / 1e3);
    free(blocks[v]), free(scratch[v]);
  }
  free(memory), free(ones), free(m), free(t), free(b);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[argc - 1], "--json") == 0) as_json = 1, --argc;
  if (argc > 1 && strcmp(argv[argc - 1], "--scalar") == 0) with_scalar = 1, --argc;
  const int rounds = argc > 1 ? atoi(argv[1]) : 50;
  for (int type = 0; type < 5; ++type) {
    if (argc > 2 && strcmp(argv[2], types[type].name) != 0) continue;
    if (argc > 7) {
      const int s[5] = {atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6]), atoi(argv[7])};
      measure(type, s, rounds);
    } else {
      for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; ++i) measure(type, shapes[i], rounds);
    }
  }
  return 0;
}
