//! Pictures in files of their own, PNG or JPEG. A path has `{id}` where the id stands, and may have `{set}`.

use super::{Card, Entry, Source};
use crate::error::CliError;
use crate::page::limits::{PICTURE_FILES_MAX, PICTURE_FILE_BYTES_MAX, PICTURE_READ_SIDE_MAX, PICTURE_SIDE};
use crate::page::sheet::Picture;
use image::{ImageReader, Limits};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What stands for `{set}` in the path of a training example.
const TRAIN: &str = "train";

/// The pictures of a folder.
pub(super) struct Images {
    path: String,
    read: AtomicUsize,
}

impl Images {
    pub(super) fn new(path: &Path, set: Option<&str>) -> Self {
        let path = path.to_string_lossy().replace("{set}", &folder_name(set.unwrap_or(TRAIN)));
        Self { path, read: AtomicUsize::new(0) }
    }

    fn file(&self, id: u64) -> PathBuf {
        self.path.replace("{id}", &id.to_string()).into()
    }
}

/// The name of a set as that of a folder: it comes from the run, and must not lead out of the place.
fn folder_name(set: &str) -> String {
    let name: String = set.chars().map(|c| if c == '/' || c == '\\' || c.is_control() { '_' } else { c }).collect();
    if name.chars().all(|c| c == '.') {
        "_".into()
    } else {
        name
    }
}

impl Source for Images {
    fn entry(&self, id: u64) -> Result<Option<Entry>, CliError> {
        if self.read.load(Ordering::Relaxed) >= PICTURE_FILES_MAX {
            return Ok(None);
        }
        let path = self.file(id);
        let io = |source| CliError::In { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io)?,
        };
        self.read.fetch_add(1, Ordering::Relaxed);
        let wrong = |what: String| CliError::Data { path: path.clone(), what, next: "give a PNG or a JPEG file" };
        let bytes = file.metadata().map_err(io)?.len();
        if bytes > PICTURE_FILE_BYTES_MAX {
            return Err(wrong(format!("it has {bytes} bytes, and {PICTURE_FILE_BYTES_MAX} are allowed")));
        }
        let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(io)?;
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(PICTURE_READ_SIDE_MAX), Some(PICTURE_READ_SIDE_MAX));
        reader.limits(limits);
        let mut picture = reader.decode().map_err(|error| wrong(error.to_string()))?;
        if picture.width().max(picture.height()) > PICTURE_SIDE {
            picture = picture.thumbnail(PICTURE_SIDE, PICTURE_SIDE);
        }
        let is_color = picture.color().has_color();
        let (width, height) = (picture.width(), picture.height());
        let pixels = if is_color { picture.to_rgb8().into_raw() } else { picture.to_luma8().into_raw() };
        Ok(Some(Entry { card: Card::Picture(Picture { width, height, is_color, pixels }), label: None }))
    }

    fn ids(&self) -> String {
        format!("{{id}} in {}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, RgbImage};

    #[test]
    fn large_pictures_are_made_small_and_missing_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        RgbImage::from_pixel(200, 100, image::Rgb([9, 8, 7])).save(folder.path().join("4.png")).unwrap();
        GrayImage::from_pixel(3, 2, image::Luma([5])).save(folder.path().join("5.png")).unwrap();
        std::fs::write(folder.path().join("6.png"), "no picture").unwrap();
        let images = Images::new(&folder.path().join("{id}.png"), None);
        let picture = |id| match images.entry(id).unwrap().unwrap().card {
            Card::Picture(picture) => picture,
            other => panic!("{other:?}"),
        };
        let large = picture(4);
        assert_eq!((large.width, large.height, large.is_color), (64, 32, true));
        assert_eq!(large.pixels[..3], [9, 8, 7]);
        assert_eq!(picture(5), Picture { width: 3, height: 2, is_color: false, pixels: vec![5; 6] });
        assert_eq!(images.entry(7).unwrap(), None);
        assert!(matches!(images.entry(6), Err(CliError::Data { .. })));
    }

    #[test]
    fn the_name_of_a_set_stays_inside_its_place() {
        let path = |set| Images::new(Path::new("d/{set}/{id}.png"), set).path;
        assert_eq!(path(None), "d/train/{id}.png");
        assert_eq!(path(Some("../../etc")), "d/.._.._etc/{id}.png");
        assert_eq!(path(Some("..")), "d/_/{id}.png");
    }
}
