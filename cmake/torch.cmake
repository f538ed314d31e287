# The operators for C++ programs on libtorch, as a library of their own that carries the core. pip never
# builds it: Python code has the operators from the package.
#
#   CMAKE_PREFIX_PATH   where libtorch is; for that of the wheel,
#                       python -c "import torch; print(torch.utils.cmake_prefix_path)"

if(NOT EXPORTABLE_LOSSES_TORCH)
  return()
endif()

set(EXPORTABLE_LOSSES_TORCH_OPTIONS "" CACHE STRING "For its compiler, such as -O1 for tests, which takes less time")
find_package(Torch REQUIRED)
add_library(exportable_losses_torch SHARED ${CSRC}/torch_door.cc ${CSRC}/dispatch.cc)
target_include_directories(exportable_losses_torch PRIVATE ${CSRC})
target_compile_definitions(exportable_losses_torch
                           PRIVATE $<TARGET_PROPERTY:exportable_losses,COMPILE_DEFINITIONS>)
target_compile_options(exportable_losses_torch PRIVATE ${EXPORTABLE_LOSSES_TORCH_OPTIONS})
set_target_properties(exportable_losses_torch PROPERTIES CXX_STANDARD 20) # what libtorch's own headers ask
target_link_libraries(exportable_losses_torch PRIVATE ${TORCH_LIBRARIES} Threads::Threads ${CORES})
install(TARGETS exportable_losses_torch LIBRARY DESTINATION exportable_losses/lib
                                        RUNTIME DESTINATION exportable_losses/lib)
