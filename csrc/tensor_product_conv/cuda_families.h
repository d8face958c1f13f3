// Which paths of an input the CUDA kernels walk together: one kernel for each family of couplings, so that
// none carries another's registers. A path that a layer lacks is skipped at run time.
#pragma once

namespace uqforce::conv {

// Couplings (l1, l2, l3) of one l1, each as 10 l2 + l3, in the order of l2.
template <int l1_, int... codes>
struct Family {
  static constexpr int l1 = l1_, size = sizeof...(codes);
  static constexpr int code(int k) {
    const int all[] = {codes...};
    return all[k];
  }
  static constexpr int l2(int k) { return code(k) / 10; }
  static constexpr int l3(int k) { return code(k) % 10; }
  // Rows of output before those of coupling k; of all for k = size.
  static constexpr int rows_before(int k) {
    int rows = 0;
    for (int i = 0; i < k; ++i) rows += 2 * l3(i) + 1;
    return rows;
  }
  // Spherical harmonics of the degrees before that of coupling k; of all for k = size. They stand side by
  // side.
  static constexpr int columns_before(int k) {
    return (k < size ? l2(k) * l2(k) : (l2(size - 1) + 1) * (l2(size - 1) + 1)) - l2(0) * l2(0);
  }
};

template <class... F>
struct FamilyList {
  static constexpr int size = sizeof...(F);
};

// All 65 couplings of degrees up to 4; those of degrees up to 2 in one family for each l1.
using Families = FamilyList<
    Family<0, 0, 11, 22>, Family<0, 33, 44>,                                                               //
    Family<1, 1, 10, 11, 12, 21, 22>, Family<1, 23, 32, 33>, Family<1, 34, 43, 44>,                        //
    Family<2, 2, 11, 12, 20, 21, 22>, Family<2, 13, 23, 31, 32>, Family<2, 24, 33>, Family<2, 42>,         //
    Family<2, 34, 43>, Family<2, 44>,                                                                      //
    Family<3, 3, 12, 13>, Family<3, 14, 21, 22>, Family<3, 23>, Family<3, 24>, Family<3, 30, 31, 32, 33>,  //
    Family<3, 34, 41, 42>, Family<3, 43>, Family<3, 44>,                                                   //
    Family<4, 4, 13>, Family<4, 14, 22>, Family<4, 23>, Family<4, 24>, Family<4, 31, 32>, Family<4, 33>,   //
    Family<4, 34, 40, 41>, Family<4, 42>, Family<4, 43>, Family<4, 44>>;

inline constexpr int kMostCouplings = 6;  // of a family

}  // namespace uqforce::conv
