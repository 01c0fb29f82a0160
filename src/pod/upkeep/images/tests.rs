use std::sync::Mutex;

use super::*;

const AGE: Duration = Duration::from_secs(120);

fn id(byte: char) -> Digest {
    Digest::try_from(format!("sha256:{}", byte.to_string().repeat(64))).unwrap()
}

fn image(byte: char, size: u64) -> ImageUse {
    ImageUse { id: id(byte), size, pinned: byte == 'f' }
}

struct Fake {
    images: Mutex<Vec<ImageUse>>,
    in_use: Mutex<BTreeSet<Digest>>,
    disk: Mutex<Disks>,
    stuck: Option<Digest>,
}

impl Fake {
    fn new(available: u64) -> Self {
        let images = "abcf".chars().map(|byte| image(byte, 10)).collect();
        Self {
            images: Mutex::new(images),
            in_use: Mutex::default(),
            disk: Mutex::new(Disks { capacity: 100, available }),
            stuck: None,
        }
    }

    fn left(&self) -> String {
        let images = self.images.lock().unwrap();
        images.iter().map(|image| image.id.hex().chars().next().unwrap()).collect()
    }
}

#[async_trait]
impl ImageStore for Fake {
    async fn images(&self) -> Result<Vec<ImageUse>, String> {
        Ok(self.images.lock().unwrap().clone())
    }

    fn in_use(&self) -> BTreeSet<Digest> {
        self.in_use.lock().unwrap().clone()
    }

    async fn disk(&self) -> Result<Disks, String> {
        Ok(*self.disk.lock().unwrap())
    }

    async fn remove(&self, image: &Digest) -> Result<(), String> {
        if self.stuck.as_ref() == Some(image) {
            return Err("in use".to_owned());
        }
        self.images.lock().unwrap().retain(|known| known.id != *image);
        Ok(())
    }
}

async fn round(fake: &Fake, unused: &mut Unused) -> Result<u64, String> {
    free_images(fake, unused, ImageLimits::default(), false).await
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[test]
fn a_disk_is_freed_from_85_percent_down_to_80() {
    let excess =
        |capacity, available| super::excess(Disks { capacity, available }, ImageLimits::default());
    assert_eq!(excess(100, 16), None);
    assert_eq!(excess(100, 15), Some(5));
    assert_eq!(excess(100, 0), Some(20));
    assert_eq!(excess(0, 0), None, "a disk of no size says nothing");
    assert_eq!(excess(100, 200), None);
    assert_eq!(excess(u64::MAX, 0), Some(u64::MAX / 5));
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_go_first_and_no_more_than_needed() {
    let (fake, mut unused) = (Fake::new(50), Unused::default());
    for used in ['a', 'c', 'b'] {
        *fake.in_use.lock().unwrap() = [id(used)].into();
        assert_eq!(round(&fake, &mut unused).await, Ok(0));
        pass(AGE).await;
    }
    fake.in_use.lock().unwrap().clear();
    fake.disk.lock().unwrap().available = 5;
    assert_eq!(round(&fake, &mut unused).await, Ok(20));
    assert_eq!(fake.left(), "bf", "a and c were used before b, f is pinned");
}

#[tokio::test(start_paused = true)]
async fn what_is_used_new_or_pinned_stays() {
    let (fake, mut unused) = (Fake::new(0), Unused::default());
    let none = "Failed to garbage collect required amount of images. Attempted to free 20 bytes, \
                but only found 0 bytes eligible to free.";
    assert_eq!(round(&fake, &mut unused).await, Err(none.to_owned()), "all are new");
    *fake.in_use.lock().unwrap() = "abc".chars().map(id).collect();
    pass(AGE).await;
    assert_eq!(round(&fake, &mut unused).await, Err(none.to_owned()), "all are used");
    assert_eq!(fake.left(), "abcf");
    fake.in_use.lock().unwrap().remove(&id('b'));
    assert_eq!(fake.images.lock().unwrap().len(), 4);
    assert!(round(&fake, &mut unused).await.is_err(), "one is not enough");
    assert_eq!(fake.left(), "acf");
}

#[tokio::test(start_paused = true)]
async fn one_that_stays_is_not_counted() {
    let (mut fake, mut unused) = (Fake::new(10), Unused::default());
    fake.stuck = Some(id('a'));
    assert!(round(&fake, &mut unused).await.is_err());
    pass(AGE).await;
    assert_eq!(round(&fake, &mut unused).await, Ok(10));
    assert_eq!(fake.left(), "acf");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_to_go_the_disk_is_not_asked() {
    let (fake, mut unused) = (Fake::new(90), Unused::default());
    assert_eq!(round(&fake, &mut unused).await, Ok(0));
    pass(AGE).await;
    let freed = free_images(&fake, &mut unused, ImageLimits::default(), true).await;
    assert_eq!((freed, fake.left().as_str()), (Ok(30), "f"));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_comes_back_is_new() {
    let (fake, mut unused) = (Fake::new(0), Unused::default());
    let _ = round(&fake, &mut unused).await;
    pass(AGE).await;
    let gone = fake.images.lock().unwrap().remove(0);
    let now = Instant::now();
    unused.note(&fake.images.lock().unwrap(), &BTreeSet::new(), now);
    fake.images.lock().unwrap().push(gone);
    unused.note(&fake.images.lock().unwrap(), &BTreeSet::new(), now);
    let ids: Vec<_> = unused.removable(AGE, now).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [id('b'), id('c')]);
}
