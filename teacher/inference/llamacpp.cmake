# Shortens the build of llama.cpp. CMake reads this after llama.cpp's project() and calls the function when all targets
# are known. ggml and the model code (the target llama) keep their optimisation.

function(stillhouse_shorten_build)
    # HTTP, JSON, chat templates, the preparation of images: no loop over weights.
    foreach(target cpp-httplib llama-common mtmd server-context llama-server-impl llama-quantize-impl llama-imatrix)
        if(TARGET ${target})
            target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O1>)
        endif()
    endforeach()
    # Many files that each spend most of the time on the same headers and templates: one file a group.
    stillhouse_group(mtmd models "(^|/)models/[^/]*[.]cpp$")
    stillhouse_group(llama-common chat "(^|/)(parsers/[^/]*|chat[^/]*|peg-parser)[.]cpp$")
    stillhouse_group(llama-common jinja "(^|/)jinja/[^/]*[.]cpp$")
    stillhouse_group(llama-common rest "^(common|console|debug|download|fit|hf-cache|imatrix-loader|llguidance|log|ngram-[a-z]*|preset|sampling|speculative|subproc)[.]cpp$")
endfunction()

function(stillhouse_group target group pattern)
    get_target_property(sources ${target} SOURCES)
    get_target_property(directory ${target} SOURCE_DIR)
    foreach(source ${sources})
        if(source MATCHES "${pattern}")
            get_filename_component(source ${source} ABSOLUTE BASE_DIR ${directory})
            set_source_files_properties(
                ${source} TARGET_DIRECTORY ${target} PROPERTIES UNITY_GROUP ${group})
        endif()
    endforeach()
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()

cmake_language(DEFER CALL stillhouse_shorten_build)
