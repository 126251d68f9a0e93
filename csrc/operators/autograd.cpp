// SPDX-License-Identifier: Apache-2.0
// First derivatives: NAME calls NAME_backward. In C++, because torch.library's way through Python costs small batches more.
// (Shapes and second derivatives are registered in Python, medrecon/ops/registration.)
//
// NAME takes tensors, then numbers; NAME_backward the gradients of all outputs, those outputs of NAME that it wants back (the
// last ones; the length of its schema says how many), and what NAME takes; it returns gradients of the first tensors.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <vector>

namespace medrecon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Stack = torch::jit::Stack;

variable_list tensors_of(const Stack& stack) {
  variable_list tensors;
  for (const c10::IValue& value : stack) tensors.push_back(value.toTensor());
  return tensors;
}

c10::OperatorHandle backward_of(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow((name + "_backward").c_str(), "");
}

struct Derivative : torch::autograd::Function<Derivative> {
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors, const c10::OperatorHandle& op,
                               const Stack& numbers) {
    const at::AutoDispatchBelowADInplaceOrView below;
    Stack stack(tensors.begin(), tensors.end());
    stack.insert(stack.end(), numbers.begin(), numbers.end());
    op.callBoxed(&stack);
    const variable_list made = tensors_of(stack);

    const std::string& name = op.operator_name().name;
    const size_t taken = backward_of(name).schema().arguments().size();
    const size_t kept = taken - made.size() - tensors.size() - numbers.size();
    variable_list saved(made.end() - static_cast<std::ptrdiff_t>(kept), made.end());
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["name"] = name;
    ctx->saved_data["numbers"] = c10::ivalue::Tuple::create(numbers);
    ctx->saved_data["tensors"] = static_cast<int64_t>(tensors.size());
    return made;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Stack stack(grads.begin(), grads.end());
    for (const at::Tensor& tensor : ctx->get_saved_variables()) stack.emplace_back(tensor);
    for (const c10::IValue& number : ctx->saved_data["numbers"].toTupleRef().elements()) stack.push_back(number);
    backward_of(ctx->saved_data["name"].toStringRef()).callBoxed(&stack);
    variable_list found = tensors_of(stack);
    // forward's other arguments, and tensors that have no gradient, such as offsets
    found.resize(static_cast<size_t>(ctx->saved_data["tensors"].toInt()) + 2);
    return found;
  }
};

void differentiable(const c10::OperatorHandle& op, Stack* stack) {
  const auto begin = stack->end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size());
  variable_list tensors;
  Stack numbers;
  for (auto value = begin; value != stack->end(); ++value) {
    if (value->isTensor()) {
      tensors.push_back(value->toTensor());
    } else {
      numbers.push_back(*value);
    }
  }
  stack->erase(begin, stack->end());
  for (const at::Tensor& made : Derivative::apply(at::TensorList(tensors), op, numbers)) stack->emplace_back(made);
}

}  // namespace
}  // namespace medrecon

TORCH_LIBRARY_IMPL(medrecon, Autograd, m) {
  for (const char* name : {"cast_rays", "positional_encoding", "integrated_positional_encoding", "composite",
                           "composite_packed", "log_sinkhorn"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&medrecon::differentiable>());
  }
}
