/* acc = base + sum of activation * weight, int8 x int8, exact in int32.
 *
 * With rows as u8 = q + 128: sum (q - z) w = sum u w - (128 + z) sum w; the last term is base, the same for every
 * pixel because padding reads as z. With rows as int16 = q - z, base is 0.
 */
#ifndef BSK_CONV_I8_I8_H
#define BSK_CONV_I8_I8_H
#include "../variants.h"
#endif
