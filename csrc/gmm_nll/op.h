// Negative log-likelihood of a Gaussian mixture: declarations shared by op.cpp, autograd.cpp and the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/api.h"

namespace uqforce::gmm_nll {

// ValueError / TypeError unless the four tensors fit together. Works on Meta tensors with symbolic sizes.
UQFORCE_API void check_arguments(const at::Tensor& features, const at::Tensor& means,
                                 const at::Tensor& precisions_cholesky, const at::Tensor& log_weights);
// The same for the vector of the Hessian product.
UQFORCE_API void check_vector(const at::Tensor& vector, const at::Tensor& features);

// Calls through the dispatcher.
at::Tensor call_nll(const at::Tensor& features, const at::Tensor& means,
                    const at::Tensor& precisions_cholesky, const at::Tensor& log_weights);
std::tuple<at::Tensor, at::Tensor> call_grad(const at::Tensor& features, const at::Tensor& means,
                                             const at::Tensor& precisions_cholesky,
                                             const at::Tensor& log_weights);
at::Tensor call_hvp(const at::Tensor& features, const at::Tensor& means,
                    const at::Tensor& precisions_cholesky, const at::Tensor& log_weights,
                    const at::Tensor& vector);

}  // namespace uqforce::gmm_nll
