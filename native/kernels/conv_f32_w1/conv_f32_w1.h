/* 1-bit weights x float activations: signs expanded to +/-1.0 a group at a time, then the tile of conv_f32_f32. */
#ifndef BSK_CONV_F32_W1_H
#define BSK_CONV_F32_W1_H
#include "../variants.h"
#endif
