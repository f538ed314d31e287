# The CUDA kernels, as a library of their own beside the other, which stays small. It needs nvcc and
# nothing else; the CUDA runtime is linked into it, so it loads where there is no driver and says so
# when it is called.
#
#   EXPORTABLE_LOSSES_CUDA     ON or OFF
#   CMAKE_CUDA_ARCHITECTURES   every one that the compiler knows, unless it is set

if(NOT EXPORTABLE_LOSSES_CUDA OR SANITIZE) # nvcc knows no sanitizers
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "EXPORTABLE_LOSSES_CUDA is ${EXPORTABLE_LOSSES_CUDA}, and no nvcc that works was found")
endif()

# The compiler is asked, for CMake's own `all` is a list of its time: machine code for each, and PTX of
# the newest for what comes after it.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known)
  string(REGEX MATCHALL "sm_[0-9]+" known "${known}")
  string(REPLACE "sm_" "" known "${known}")
  list(SORT known COMPARE NATURAL)
  list(GET known -1 newest)
  list(TRANSFORM known APPEND "-real")
  set(CMAKE_CUDA_ARCHITECTURES ${known} ${newest}-virtual)
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)

add_library(exportable_losses_cuda SHARED ${CSRC}/cuda/cuda_api.cu)
target_include_directories(exportable_losses_cuda PUBLIC ${CSRC})
string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(exportable_losses_cuda
                           PRIVATE EXPORTABLE_LOSSES_CUDA_ARCHITECTURES="${architectures}"
                                   EXPORTABLE_LOSSES_VERSION="${PACKAGE_VERSION}")
target_compile_options(exportable_losses_cuda PRIVATE --threads=2) # architectures side by side
if(UNIX AND NOT APPLE)
  target_link_options(exportable_losses_cuda PRIVATE LINKER:--exclude-libs,ALL) # the runtime's names stay inside
endif()
message(STATUS "CUDA kernels: ${CMAKE_CUDA_COMPILER}, for ${architectures}")
install(TARGETS exportable_losses_cuda LIBRARY DESTINATION exportable_losses/lib
                                       RUNTIME DESTINATION exportable_losses/lib)
install(FILES ${CSRC}/cuda/cuda_api.h DESTINATION exportable_losses/include/cuda)
