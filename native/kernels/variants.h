/* Declares what every line of every kernels.inc names. */
#ifndef BSK_VARIANTS_H
#define BSK_VARIANTS_H
#include "kernel.h"
#define BSK_UNPACK(function) void function(const void *masks, void *weights, size_t steps);
#define BSK_SPECIAL(object) extern const bsk_special object;
#define BSK_CONV(types, name, function, rows, pack, pixels, method, ...) void function(const bsk_tile *tile, void *acc);
#define BSK_GROUPED(dtype, depthwise, name) void bsk_##name(const bsk_grouped_call *call, void *acc);
#define BSK_EPILOGUE(name, last)                                                    \
  void bsk_epi_float_f32_##name(const bsk_epi_float *e, const bsk_epi_call *c);     \
  void bsk_epi_float_i32_##name(const bsk_epi_float *e, const bsk_epi_call *c);     \
  void bsk_epi_threshold_##name(const bsk_epi_threshold *e, const bsk_epi_call *c); \
  void bsk_epi_integer_##name(const bsk_epi_integer *e, const bsk_epi_call *c);
#define BSK_PLAIN(name) extern const bsk_plain_kernels bsk_plain_##name;
#include "variants.inc"
#endif
