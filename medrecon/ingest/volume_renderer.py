# SPDX-License-Identifier: Apache-2.0
"""Volume rendering with VTK's CPU ray caster, without any window, display or OpenGL library.

vtkFixedPointVolumeRayCastMapper makes its picture in main memory and only then hands it to OpenGL for display. Its
stages are public, so they are called one by one and the picture is taken from memory: the same pixels on every
machine, and nothing to install on a server.
"""

from __future__ import annotations

import ctypes
import re

import numpy as np

from medrecon.errors import StageError
from medrecon.ingest.transfer_functions import TransferFunction
from medrecon.ingest.volume import canonical
from medrecon.types import Camera, Rigid3, Volume

_FULL = 32767.0  # VTK's fixed-point 1.0

# Directions the fixed lights shine from, in patient axes (right, anterior, superior), and their strength. Three
# lights all round, so that no side of an orbit is dark and shading still tells slopes apart.
FIXED_LIGHTS = (
    ((0.75, 0.65, 0.35), 0.9),
    ((-0.90, 0.15, 0.40), 0.8),
    ((0.10, -0.90, 0.45), 0.85),
)


class VolumeRenderer:
    """Renders one volume under one transfer function; poses change from call to call.

    Args:
        volume: any orientation, sheared or left-handed; float32 or int16.
        transfer: in the volume's own values (``TransferFunction.on``).
        camera: PINHOLE with the principal point in the centre and fx = fy.
        light: "headlight" (shines where the camera looks) or "fixed" (``FIXED_LIGHTS``, in patient axes).
        supersample: rays per pixel along each axis; the picture is their mean.
        step_mm: distance between samples on a ray; None: half the smallest spacing.
    """

    def __init__(
        self,
        volume: Volume,
        transfer: TransferFunction,
        camera: Camera,
        light: str = "fixed",
        supersample: int = 2,
        step_mm: float | None = None,
    ):
        # Importing the OpenGL classes registers the mapper's display helper; no OpenGL library is loaded by it.
        import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401
        from vtkmodules.vtkRenderingCore import vtkRenderer
        from vtkmodules.vtkRenderingOpenGL2 import vtkGenericOpenGLRenderWindow
        from vtkmodules.vtkRenderingVolume import vtkFixedPointVolumeRayCastMapper

        (fx, fy), centre = camera.focal_px, camera.principal_px
        if fx != fy or centre != (camera.width_px / 2, camera.height_px / 2):
            raise StageError("the volume renderer needs square pixels and a centred principal point")
        volume = canonical(volume)
        self.camera, self.light, self.supersample = camera, light, int(supersample)
        self._image = image_data(volume)
        self._corners = _corners(volume)

        self._mapper = vtkFixedPointVolumeRayCastMapper()
        self._mapper.SetInputData(self._image)
        self._mapper.AutoAdjustSampleDistancesOff()
        self._mapper.SetImageSampleDistance(1.0)
        self._mapper.SetSampleDistance(step_mm or min(volume.spacing_mm) / 2)
        self._volume = _placed(volume, self._mapper, _property(transfer))

        # Never initialised, never shown: it only carries the size of the picture.
        self._window = vtkGenericOpenGLRenderWindow()
        self._window.SetSize(camera.width_px * self.supersample, camera.height_px * self.supersample)
        self._renderer = vtkRenderer()
        self._renderer.AutomaticLightCreationOff()
        self._renderer.TwoSidedLightingOff()  # a normal flipped towards the viewer would make colour view-dependent
        self._window.AddRenderer(self._renderer)
        self._add_light(np.array((0.0, 0.0, 1.0)), 1.0, ambient=True)
        if light == "fixed":
            for direction, strength in FIXED_LIGHTS:
                self._add_light(np.array(direction), strength)

    def render(self, cam_from_world_mm: Rigid3) -> np.ndarray:
        """float32 [H, W, 4], 0..1: red, green, blue over black (premultiplied) and opacity."""
        self._aim(cam_from_world_mm)
        if self.light == "headlight":
            self._renderer.RemoveAllLights()
            self._add_light(np.array((0.0, 0.0, 1.0)), 1.0, ambient=True)
            self._add_light(-cam_from_world_mm.rotation[2], 1.0)
        width, height = self._window.GetSize()
        out = np.zeros((height, width, 4), np.float32)
        mapper, ren, vol = self._mapper, self._renderer, self._volume
        mapper.Update()
        if mapper.PerImageInitialization(ren, vol, 0, [0.0] * 3, [1.0] * 3, [0] * 6):
            mapper.PerVolumeInitialization(ren, vol)
            mapper.PerSubVolumeInitialization(ren, vol, 0)
            mapper.RenderSubVolume()
            x, y, pixels = _ray_cast_image(mapper)
            out[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels / np.float32(_FULL)
        s = self.supersample
        out = out[::-1].reshape(height // s, s, width // s, s, 4).mean((1, 3))  # VTK's rows go upwards
        return np.minimum(out, 1.0)

    def _aim(self, pose: Rigid3) -> None:
        eye, forward, up = pose.center, pose.rotation[2], -pose.rotation[1]
        camera = self._renderer.GetActiveCamera()
        camera.SetPosition(*eye)
        camera.SetFocalPoint(*(eye + forward * 100.0))
        camera.SetViewUp(*up)
        camera.SetViewAngle(float(np.degrees(2 * np.arctan(self.camera.height_px / 2 / self.camera.focal_px[1]))))
        z = (self._corners - eye) @ forward
        far = max(float(z.max()) * 1.01, 1.0)
        camera.SetClippingRange(max(float(z.min()) * 0.99, far * 1e-4, 0.1), far)

    def _add_light(self, direction_to_light: np.ndarray, strength: float, ambient: bool = False) -> None:
        """One distant light; ``ambient``: it shines from everywhere (a light of VTK has no ambient part by itself)."""
        from vtkmodules.vtkRenderingCore import vtkLight

        light = vtkLight()
        light.SetLightTypeToSceneLight()
        light.PositionalOff()
        light.SetFocalPoint(0.0, 0.0, 0.0)
        light.SetPosition(*(np.asarray(direction_to_light, np.float64) / np.linalg.norm(direction_to_light)))
        light.SetIntensity(strength)
        if ambient:
            light.SetAmbientColor(1.0, 1.0, 1.0)
            light.SetDiffuseColor(0.0, 0.0, 0.0)
            light.SetSpecularColor(0.0, 0.0, 0.0)
        self._renderer.AddLight(light)


def image_data(volume: Volume):
    """vtkImageData with the voxels and spacing but without place: VTK's images lie along the axes."""
    from vtkmodules.util import numpy_support
    from vtkmodules.vtkCommonDataModel import vtkImageData

    image = vtkImageData()
    image.SetDimensions(*volume.data.shape)
    image.SetSpacing(*volume.spacing_mm)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(volume.data.ravel(order="F"), deep=1))
    return image


def world_from_image(volume: Volume) -> np.ndarray:
    """float64 [4, 4]: ``image_data`` coordinates (mm along the voxel axes) to RAS mm."""
    return volume.ras_from_ijk_mm @ np.diag([*(1.0 / np.array(volume.spacing_mm)), 1.0])


def _placed(volume: Volume, mapper, prop):
    from vtkmodules.vtkCommonMath import vtkMatrix4x4
    from vtkmodules.vtkRenderingCore import vtkVolume

    matrix = vtkMatrix4x4()
    matrix.DeepCopy(world_from_image(volume).ravel())
    actor = vtkVolume()
    actor.SetMapper(mapper)
    actor.SetProperty(prop)
    actor.SetUserMatrix(matrix)
    return actor


def _property(transfer: TransferFunction):
    from vtkmodules.vtkCommonDataModel import vtkPiecewiseFunction
    from vtkmodules.vtkRenderingCore import vtkColorTransferFunction, vtkVolumeProperty

    colour, opacity = vtkColorTransferFunction(), vtkPiecewiseFunction()
    for value, red, green, blue, alpha in transfer.points:
        colour.AddRGBPoint(value, red, green, blue)
        opacity.AddPoint(value, alpha)
    prop = vtkVolumeProperty()
    prop.SetColor(colour)
    prop.SetScalarOpacity(opacity)
    prop.SetScalarOpacityUnitDistance(1.0)
    prop.SetInterpolationTypeToLinear()
    prop.ShadeOn()
    prop.SetAmbient(transfer.ambient)
    prop.SetDiffuse(transfer.diffuse)
    prop.SetSpecular(transfer.specular)
    prop.SetSpecularPower(transfer.specular_power)
    return prop


def _corners(volume: Volume) -> np.ndarray:
    """float64 [8, 3]: the corners of the voxel grid in RAS mm."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in volume.data.shape))).reshape(3, -1).T
    return ends @ volume.ras_from_ijk_mm[:3, :3].T + volume.ras_from_ijk_mm[:3, 3]


def _ray_cast_image(mapper) -> tuple[int, int, np.ndarray]:
    """(x, y, uint16 [h, w, 4]): the part of the picture that was computed, rows upwards, and where it lies."""
    image = mapper.GetRayCastImage()
    # VTK hands a bare C pointer to Python as text such as "_00007f9bbc5c9010_p_void".
    address = re.match(r"_([0-9a-f]+)_p_", str(image.GetImage()))
    if not address:
        raise StageError(
            "this version of VTK does not give access to the picture of its ray caster",
            "install the VTK version named in constraints.txt",
        )
    memory_w, memory_h = image.GetImageMemorySize()
    width, height = image.GetImageInUseSize()
    buffer = (ctypes.c_uint16 * (memory_w * memory_h * 4)).from_address(int(address[1], 16))
    pixels = np.frombuffer(buffer, np.uint16).reshape(memory_h, memory_w, 4)[:height, :width]
    x, y = image.GetImageOrigin()
    return x, y, pixels.copy()
