// From a kernel's own signature to a call with an argument block, and to the letters of its parameters.
#pragma once

#include "emu/runtime.h"
#include "emu/tensor_map.h"

namespace emu {

template <class T>
constexpr char letter() {
  if (std::is_same<T, TensorMap>::value) return 'm';
  static_assert(std::is_same<T, TensorMap>::value || std::is_pointer<T>::value || sizeof(T) == 4 || sizeof(T) == 8,
                "parameters are pointers, 4 or 8 byte scalars and tensor maps");
  if (std::is_pointer<T>::value) return 'p';
  if (std::is_floating_point<T>::value) return sizeof(T) == 4 ? 'f' : 'd';
  return sizeof(T) == 4 ? 'i' : 'l';
}

template <class... A>
struct Parameters {
  static constexpr char letters[sizeof...(A) + 1] = {letter<A>()..., '\0'};
};

template <class... A>
constexpr const char* parameters(void (*)(A...)) {
  return Parameters<A...>::letters;
}

template <size_t... I>
struct Indices {};
template <size_t N, size_t... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <size_t... I>
struct MakeIndices<0, I...> {
  using Type = Indices<I...>;
};

template <class... A, size_t... I>
inline void call_with(void (*kernel)(A...), void** args, Indices<I...>) {
  (void)args;
  kernel(*static_cast<std::remove_cv_t<A>*>(args[I])...);
}

template <class... A>
inline void call(void (*kernel)(A...), void** args) {
  call_with(kernel, args, typename MakeIndices<sizeof...(A)>::Type());
}

}  // namespace emu

#ifdef HAGGLE_EMU_CHECKED
#define HAGGLE_EMU_NAME(name) #name "_checked"
#define HAGGLE_EMU_SYMBOL(name) haggle_emu_checked_##name
#define HAGGLE_EMU_BUILD Checked
#elif defined(HAGGLE_EMU_COUNTED)
#define HAGGLE_EMU_NAME(name) #name "_counted"
#define HAGGLE_EMU_SYMBOL(name) haggle_emu_counted_##name
#define HAGGLE_EMU_BUILD Counted
#else
#define HAGGLE_EMU_NAME(name) #name
#define HAGGLE_EMU_SYMBOL(name) haggle_emu_entry_##name
#define HAGGLE_EMU_BUILD Plain
#endif

// The table entry of the kernel `name`, for the wrapper that build/emu.rs writes, which reads what `restricted` says.
#define HAGGLE_EMU_ENTRY(name, restricted, cluster)                                  \
  static void haggle_emu_call_##name(void** args) { ::emu::call(name, args); } \
  extern const ::emu::Entry HAGGLE_EMU_SYMBOL(name);                           \
  const ::emu::Entry HAGGLE_EMU_SYMBOL(name) = {HAGGLE_EMU_NAME(name), haggle_emu_call_##name, \
                                                ::emu::parameters(name), ::emu::Build::HAGGLE_EMU_BUILD, restricted, cluster};
