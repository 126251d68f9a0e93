# SPDX-License-Identifier: Apache-2.0
"""Every built-in extractor, matcher, pairing, source, renderer and mesher keeps the contract that plugins are held to."""

import inspect

import numpy as np
import pytest

import medrecon
from medrecon.images import cv2, write_png
from medrecon.networks.checkpoint import save_network
from medrecon.testing import (
    ExtractorConformance,
    MatcherConformance,
    MesherConformance,
    PairingConformance,
    RendererConformance,
    SourceConformance,
    phantoms,
)
from medrecon.testing.networks import small_superglue, small_superpoint

create = medrecon.create


class TestSift(ExtractorConformance):
    def make(self):
        return create("extractor", "sift", max_keypoints=500)


class TestSurf(ExtractorConformance):
    def make(self):
        return create("extractor", "surf", max_keypoints=500)


class TestOrb(ExtractorConformance):
    def make(self):
        return create("extractor", "orb", max_keypoints=500)


class TestSuperpoint(ExtractorConformance):
    """With made-up weights that treat a mirrored picture as the mirror of the picture."""

    @pytest.fixture(autouse=True)
    def weights(self, tmp_path):
        self.path = tmp_path / "small.safetensors"
        save_network(self.path, small_superpoint(), "Apache-2.0", {})

    def make(self):
        return create("extractor", "superpoint", weights=str(self.path), max_keypoints=500, device="cpu")


class TestSuperpointSubpixel(TestSuperpoint):
    def make(self):
        return create("extractor", "superpoint", weights=str(self.path), subpixel=True, device="cpu")


class TestSuperpointOnCorners(TestSuperpoint):
    def make(self):
        return create("extractor", "superpoint", weights=str(self.path), detector="shi-tomasi", device="cpu")


class TestSuperpointOnBlobs(TestSuperpoint):
    def make(self):
        return create("extractor", "superpoint", weights=str(self.path), detector="sift", device="cpu")


class TestNoPairing(PairingConformance):
    covers_all_frames = False

    def make(self):
        return create("pairing", "none")

    def test_pairs_are_valid(self):
        assert self._pairs(9) == []  # where every other pairing must find some


class TestNearestNeighbour(MatcherConformance):
    min_recall = min_precision = 0.95

    def make(self):
        return create("matcher", "nearest-neighbour")


class TestNearestNeighbourHamming(TestNearestNeighbour):
    extractor, metric, dimension = "orb", "hamming", 32


class TestNearestNeighbourOneSided(MatcherConformance):
    def make(self):
        return create("matcher", "nearest-neighbour", mutual=False, ratio=1.0)


class TestSuperglue(MatcherConformance):
    """With made-up weights that leave optimal transport between descriptors."""

    extractor, dimension = "superpoint", 256
    min_recall = min_precision = 0.95

    @pytest.fixture(autouse=True)
    def weights(self, tmp_path):
        self.path = tmp_path / "small.safetensors"
        save_network(self.path, small_superglue(self.dimension), "Apache-2.0", {})

    def make(self):
        return create("matcher", "superglue", weights=str(self.path), device="cpu")


class TestExhaustive(PairingConformance):
    def make(self):
        return create("pairing", "exhaustive")


class TestSequential(PairingConformance):
    def make(self):
        return create("pairing", "sequential", overlap=2, loop_every=2)


class TestRetrieval(PairingConformance):
    def make(self):
        return create("pairing", "retrieval", k=3, k_second=2)


class TestFromPoses(PairingConformance):
    def make(self):
        return create("pairing", "from-poses", neighbours=3)


class TestImageFolder(SourceConformance):
    def make(self, input_dir):
        for i in range(3):
            write_png(input_dir / f"view {i + 9}.png", phantoms.texture_image(40, 56, seed=i))
        return create("source", "image-folder", path=str(input_dir))

    def make_broken(self, input_dir):
        (input_dir / "a.png").write_text("this is not a picture")
        return create("source", "image-folder", path=str(input_dir))


class TestVideo(SourceConformance):
    def make(self, input_dir):
        path = input_dir / "clip.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
        for i in range(4):
            writer.write(phantoms.texture_image(48, 64, seed=i))
        writer.release()
        return create("source", "video", path=str(path))

    def make_broken(self, input_dir):
        (input_dir / "clip.mp4").write_text("this is not a video")
        return create("source", "video", path=str(input_dir / "clip.mp4"))


class TestDicom(SourceConformance):
    def make(self, input_dir):
        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UltrasoundMultiFrameImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = generate_uid(), generate_uid(), "US"
        ds.PatientName, ds.PatientID = "Nobody^Real", "0"
        ds.Rows, ds.Columns, ds.NumberOfFrames, ds.FrameTime = 40, 56, 3, "40"
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.PixelData = np.stack([phantoms.texture_image(40, 56, seed=i) for i in range(3)]).tobytes()
        ds.save_as(input_dir / "cine.dcm", enforce_file_format=True)
        return create("source", "dicom", path=str(input_dir))

    def make_broken(self, input_dir):
        (input_dir / "cine.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"garbage")
        return create("source", "dicom", path=str(input_dir))


class TestProjections(SourceConformance):
    def make(self, input_dir):
        import nibabel

        x, y, z = np.mgrid[-1:1:12j, -1:1:12j, -1:1:12j]
        ball = np.where(x**2 + y**2 + 0.5 * z**2 < 0.6, 900.0, -1000.0).astype(np.float32)
        image = nibabel.Nifti1Image(ball, np.diag([8.0, 8, 8, 1]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, input_dir / "ball.nii.gz")
        return create(
            "source", "projections", path=str(input_dir / "ball.nii.gz"), n_views=3, image_size_px=(24, 20), photons=1e4
        )

    def make_broken(self, input_dir):
        (input_dir / "ball.nii.gz").write_bytes(b"not a volume")
        return create("source", "projections", path=str(input_dir / "ball.nii.gz"))


class TestViews(SourceConformance):
    def make(self, input_dir):
        import nibabel

        x, y, z = np.mgrid[-1:1:24j, -1:1:24j, -1:1:24j]
        ball = np.where(x**2 + y**2 + 0.5 * z**2 < 0.6, 900.0, -1000.0).astype(np.float32)
        image = nibabel.Nifti1Image(ball, np.diag([4.0, 4, 4, 1]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, input_dir / "ball.nii.gz")
        return create("source", "views", path=str(input_dir / "ball.nii.gz"), n_views=2, image_size_px=(48, 40))

    def make_broken(self, input_dir):
        (input_dir / "ball.nii.gz").write_bytes(b"not a volume")
        return create("source", "views", path=str(input_dir / "ball.nii.gz"))


SMALL_GRID = {"levels": 4, "log2_size": 12, "finest": 64, "width": 16, "samples": 64, "occupancy_cells": 16}
SMALL = {"width": 16, "coarse_samples": 8, "fine_samples": 8, "max_degree": 6, "occupancy_cells": 16}


class TestNerf(RendererConformance):
    def make(self):
        return create("renderer", "nerf", **SMALL)


class TestMipNerf(RendererConformance):
    def make(self):
        return create("renderer", "mipnerf", **SMALL)


class TestMipGrid(RendererConformance):
    def make(self):
        return create("renderer", "mipgrid", **SMALL_GRID)


class TestMipGridLit(RendererConformance):
    def make(self):
        return create("renderer", "mipgrid", light="camera", **SMALL_GRID)


class TestXray(RendererConformance):
    def make(self):
        return create("renderer", "xray", levels=3, finest=32, log2_size=12, samples=64, smoothness=0.0)


class TestXrayTransmission(RendererConformance):
    def make(self):
        return create("renderer", "xray", levels=3, finest=32, log2_size=12, samples=64, intensity="transmission")


class TestMipNerfWithoutAppearance(RendererConformance):
    def make(self):
        return create("renderer", "mipnerf", appearance_size=0, **SMALL)


class TestMarchingCubes(MesherConformance):
    def make(self):
        return create("mesher", "marching-cubes", resolution=40)


class TestTsdf(MesherConformance):
    def make(self):
        return create("mesher", "tsdf", resolution=40)


@pytest.mark.parametrize("kind", ["extractor", "matcher", "pairing", "source", "renderer", "mesher"])
def test_no_builtin_is_left_out(kind):
    import medrecon.builtins

    names = {c.name for c in medrecon.builtins.COMPONENTS if c.kind == kind}
    classes = [c for c in globals().values() if isinstance(c, type) and c.__name__.startswith("Test")]
    source = "".join(inspect.getsource(c) for c in classes)
    missing = {n for n in names if f'create("{kind}", "{n}"' not in source}
    assert not missing, f"no conformance test for {kind}: {sorted(missing)}"
