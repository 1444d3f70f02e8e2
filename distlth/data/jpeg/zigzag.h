// The order of a block's coefficients in a JPEG.
#pragma once

#include <cstdint>

namespace distlth::jpeg {

struct Order {
    uint8_t place[64];  // row x 8 + column
};

// Walk the diagonals of 8 x 8, up and down by turns.
constexpr Order zigzag_order() {
    Order order{};
    int next = 0;
    for (int diagonal = 0; diagonal < 15; ++diagonal)
        for (int i = 0; i <= diagonal; ++i) {
            const int row = diagonal % 2 ? i : diagonal - i;
            const int column = diagonal - row;
            if (row < 8 && column < 8) order.place[next++] = uint8_t(row * 8 + column);
        }
    return order;
}

constexpr Order ZIGZAG = zigzag_order();

}  // namespace distlth::jpeg
