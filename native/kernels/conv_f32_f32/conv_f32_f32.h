/* acc = sum of activation * weight in float32; the order of the sum is free. */
#ifndef BSK_CONV_F32_F32_H
#define BSK_CONV_F32_F32_H
#include "../variants.h"
#endif
