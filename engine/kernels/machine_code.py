"""Compiled kernels as the cache has them: machine code that runs at once, and bitcode for compiling other kernels.

numba reads both whenever it loads a function. The bitcode takes ten times as long to read as the machine code, and is
needed only where a kernel is compiled that calls this one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding
from numba.core import codegen, compiler

_codegen: Any = codegen
_compiler: Any = compiler


class _Library(_codegen.JITCodeLibrary):  # type: ignore[misc]
    """The machine code of a kernel, and its bitcode, which is read when it is needed.

    Parameters
    ----------
    generator
        The code generator of the process.
    name
        The library's name.
    machine_code, bitcode
        What the kernel was compiled to.
    entries
        The functions in the machine code that are called to run the kernel.

    """

    _shared_module: Any  # numba's own, None until the bitcode has been read

    def __init__(self, generator: Any, name: str, machine_code: bytes, bitcode: bytes, entries: set[str]) -> None:
        super().__init__(generator, name)
        self._bitcode = bitcode
        self.enable_object_caching()
        self._set_compiled_object(machine_code)
        self._finalize_final_module()
        generator._engine._defined_symbols |= entries

    def get_pointer_to_function(self, name: str) -> int:
        """Give the address of a function; 0 if the library has none of that name."""
        if not self._codegen._engine.is_symbol_defined(name):
            self._get_module_for_linking()  # which says what else is defined
        address: int = super().get_pointer_to_function(name)
        return address

    def _get_module_for_linking(self) -> Any:
        """Give the kernel as a module that another one can be compiled with."""
        if self._shared_module is None:
            self._shared_module = binding.parse_bitcode(self._bitcode)
            self._codegen._engine._load_defined_symbols(self._shared_module)
        return self._shared_module


def load(context: Any, payload: tuple[Any, ...]) -> Any:
    """Make a kernel that can be called of what the cache has.

    Parameters
    ----------
    context
        The target of compilation.
    payload
        What numba has made of the result of a compilation, to be kept.

    """
    stored, description, environment, signature, in_objects, lifted, annotation, beginnings, environments = payload
    for begin in beginnings:
        begin()
    name, _, (machine_code, bitcode) = stored
    entries = {description.llvm_func_name, description.llvm_cpython_wrapper_name}
    library = _Library(context.codegen(), name, machine_code, bitcode, entries)
    entry_point = context.get_executable(library, description, environment)
    for each in environments:
        library.codegen.set_env(each.env_name, each)
    return _compiler.compile_result(
        typing_context=context.typing_context,
        target_context=context,
        library=library,
        entry_point=entry_point,
        fndesc=description,
        environment=environment,
        signature=signature,
        objectmode=in_objects,
        lifted=lifted,
        type_annotation=annotation,
        reload_init=beginnings,
        referenced_envs=environments,
    )
