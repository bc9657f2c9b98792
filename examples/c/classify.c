/* classify MODEL.bitskip PICTURE.ppm: the class of a picture of the model's size, without Python. */
#include <stdio.h>
#include <stdlib.h>

#include "bitskip.h"

static void *read_all(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) return NULL;
  *size = (size_t)ftell(file);
  void *bytes = aligned_alloc(64, (*size + 64) / 64 * 64);
  rewind(file);
  if (bytes && fread(bytes, 1, *size, file) != *size) bytes = NULL;
  fclose(file);
  return bytes;
}

static int fail(const char *what) { return fprintf(stderr, "classify: %s\n", what), 2; }

int main(int argc, char **argv) {
  size_t size = 0, length = 0;
  int width, height, skipped = 0;
  bsk_program program;
  bsk_sizes sizes;
  bsk_engine *engine;
  if (argc != 3) return fail("usage: classify MODEL.bitskip PICTURE.ppm");
  void *model = read_all(argv[1], &size);
  if (!model) return fail("the model cannot be read");
  if (bsk_open(model, size, &program) != BSK_OK) return fail(program.error);
  if (program.n_inputs != 1) return fail("the model takes several inputs, expected one picture");
  char *picture = (char *)read_all(argv[2], &length);
  const bsk_tensor in = bsk_program_tensor(&program, 0), out = bsk_program_output(&program, 0);
  if (!picture || sscanf(picture, "P6 %d %d 255%n", &width, &height, &skipped) != 2 || !skipped || width != in.w || height != in.h || in.c != 3 ||
      length != (size_t)skipped + 1 + (size_t)width * (size_t)height * 3)
    return fail("the picture is not a binary PPM of the model's size");

  bsk_op *ops = (bsk_op *)malloc(program.n_ops * sizeof *ops);
  for (uint32_t i = 0; ops && i < program.n_ops; ++i) bsk_program_op(&program, i, &ops[i]);
  if (!ops || bsk_engine_bytes(ops, program.n_ops, program.arena_bytes, BSK_ISA_BEST, &sizes) != BSK_OK) return fail(bsk_last_error());
  void *memory = aligned_alloc(64, (sizes.engine_bytes + 63) / 64 * 64), *scratch = aligned_alloc(64, (sizes.scratch_bytes + 63) / 64 * 64);
  char *arena = (char *)aligned_alloc(64, (sizes.arena_bytes + 63) / 64 * 64);
  if (!memory || !scratch || !arena) return fail("there is not enough memory");
  if (bsk_engine_init(ops, program.n_ops, program.arena_bytes, BSK_ISA_BEST, memory, sizes.engine_bytes, &engine) != BSK_OK) return fail(bsk_last_error());
  bsk_engine_run(engine, (const uint8_t *)picture + skipped + 1, arena, scratch);

  const float *logits = (const float *)(const void *)(arena + out.offset);
  int best = 0;
  for (int i = 1; i < out.c; ++i)
    if (logits[i] > logits[best]) best = i;
  const char *name = bsk_program_name(&program, 1 + program.n_outputs + (uint32_t)best, &length);
  return printf("%d %.*s %.4f\n", best, program.n_classes ? (int)length : 0, name, (double)logits[best]) < 0;
}
