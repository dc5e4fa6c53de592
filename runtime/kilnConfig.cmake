# find_package(kiln) -> kiln::kiln. The library needs nothing else at link time.
include(${CMAKE_CURRENT_LIST_DIR}/kilnTargets.cmake)
