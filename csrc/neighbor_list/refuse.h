// Values that a neighbour list refuses: ValueErrors that name the value and the fix.
#pragma once

#include <c10/util/Exception.h>

#include <array>
#include <cstdint>

namespace uqforce::neighbor_list {

[[noreturn]] inline void refuse_structure(int64_t atom, int64_t structure, int64_t num_structures) {
  TORCH_CHECK_VALUE(false, "batch[", atom, "] is ", structure, " but cell holds ", num_structures,
                    " structures: use 0 to ", num_structures - 1);
}
[[noreturn]] inline void refuse_order(int64_t atom, int64_t structure, int64_t last) {
  TORCH_CHECK_VALUE(false, "batch[", atom, "] is ", structure, " after ", last,
                    ": batch must ascend; sort the atoms by structure");
}
template <typename T>
[[noreturn]] void refuse_cell(int64_t structure, int row, T value) {
  TORCH_CHECK_VALUE(false, "cell[", structure, "] has the value ", value, " in row ", row,
                    ": every number must be finite");
}
[[noreturn]] inline void refuse_volume(int64_t structure, const bool* pbc) {
  TORCH_CHECK_VALUE(false, "cell[", structure, "] with pbc (", pbc[0], ", ", pbc[1], ", ", pbc[2],
                    ") has no volume: its periodic rows must be linearly independent; give the cell, or ",
                    "set pbc to False where the structure is not periodic");
}
[[noreturn]] inline void refuse_position(int64_t atom, const std::array<double, 3>& r) {
  TORCH_CHECK_VALUE(false, "positions[", atom, "] is (", r[0], ", ", r[1], ", ", r[2],
                    "): every coordinate must be finite; correct or remove this atom");
}
[[noreturn]] inline void refuse_distance(int64_t atom, double cells) {
  TORCH_CHECK_VALUE(false, "positions[", atom, "] lies ", cells,
                    " cells away from the cell: wrap the positions into the cell");
}
[[noreturn]] inline void refuse_images(int64_t structure, double images, int64_t atoms, double cutoff) {
  TORCH_CHECK_VALUE(false, "structure ", structure, " has about ", images, " periodic images of its ", atoms,
                    " atoms within the cutoff ", cutoff,
                    ": more than a neighbour list can hold; use a smaller cutoff or a larger cell");
}

}  // namespace uqforce::neighbor_list
