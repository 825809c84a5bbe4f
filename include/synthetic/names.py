"""Pools of names: first names by culture and sex, surnames by culture.

Most surnames are put together from parts, as real ones are, so that the pools are wide enough for a million
people without every second one being called Smith.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
import pyarrow as pa

from include.synthetic.draws import Ints


class Culture(IntEnum):
    """The naming tradition of a person, and the script their name is written in."""

    WESTERN = 0
    INDIAN = 1
    JAPANESE_LATIN = 2
    JAPANESE = 3
    THAI_LATIN = 4
    THAI = 5


LATIN = frozenset({Culture.WESTERN, Culture.INDIAN, Culture.JAPANESE_LATIN, Culture.THAI_LATIN})


@dataclass(frozen=True)
class NamePool:
    """All names of one kind in one list, with the stretch that belongs to each group.

    ``offsets`` and ``sizes`` are indexed by group: culture for surnames, culture * 2 + female for first
    names.
    """

    names: pa.Array
    offsets: Ints
    sizes: Ints

    @classmethod
    def of(cls, groups: list[list[str]]) -> NamePool:
        """A pool of the given groups; repeated names within a group count once."""
        unique = [list(dict.fromkeys(group)) for group in groups]
        sizes = np.array([len(group) for group in unique], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return cls(pa.array([name for group in unique for name in group], pa.string()), offsets, sizes)


def _words(text: str) -> list[str]:
    return text.split()


_WOMEN = {
    Culture.WESTERN: _words("""Emma Olivia Sophia Isabella Mia Charlotte Amelia Harper Evelyn Abigail Emily Ella
        Elizabeth Camila Luna Sofía Avery Mila Aria Scarlett Penelope Layla Chloe Victoria Madison Eleanor
        Grace Nora Riley Zoey Hannah Hazel Lily Ellie Violet Lillian Zoë Stella Aurora Natalie Emilia
        Everly Leah Aubrey Willow Addison Lucy Audrey Bella Nova Brooklyn Paisley Savannah Claire Skylar
        Isla Genesis Naomi Elena Caroline Eliana Anna Maya Valentina Ruby Kennedy Ivy Ariana Aaliyah
        Cora Madelyn Alice Kinsley Hailey Gabriella Allison Gianna Serenity Samantha Sarah Autumn Quinn
        Eva Piper Sophie Sadie Delilah Josephine Nevaeh Adeline Arya Emery Lydia Clara Vivian Madeline
        Peyton Julia Rylee Brielle Reagan Natalia Jade Athena Maria Leilani Everleigh Liliana Melanie
        Mackenzie Hadley Raelynn Kaylee Rose Arianna Isabelle Melody Eliza Lyla Katherine Aubree Adalynn
        Kylie Faith Mary Margaret Ximena Iris Alexandra Jasmine Charlie Amaya Taylor Isabel Ashley
        Khloe Ryleigh Alexa Amara Valeria Andrea Parker Norah Eden Elliana Brianna Emersyn Valerie Anastasia
        Eloise Emerson Cecilia Remi Josie Reese Bailey Lucia Adalyn Molly Ayla Sara Daisy London Jordyn
        Esther Genevieve Harmony Annabelle Alyssa Ariel Aliyah Londyn Juliana Morgan Summer Juliette
        Trinity Callie Sienna Blakely Alaia Kayla Teagan Alaina Brynlee Finley Catalina Sloane Rachel Lilly
        Ember Jennifer Linda Patricia Barbara Susan Jessica Karen Nancy Lisa Betty Sandra Donna Carol Ruth
        Sharon Michelle Laura Kimberly Deborah Dorothy Amy Angela Brenda Pamela Nicole Stephanie Helen
        Rebecca Cynthia Kathleen Shirley Anne-Marie Renée Chloé Zoé Noémie Inés Begoña Åsa Søs
        Käthe Šárka"""),
    Culture.INDIAN: _words("""Aadhya Aanya Aaradhya Ananya Anika Anjali Anushka Archana Asha Avni Bhavana Deepa
        Deepika Divya Diya Esha Gauri Gayatri Indira Isha Ishita Jaya Jyoti Kamala Kavita Kavya Kiara
        Lakshmi Lata Latha Madhuri Mala Manisha Meena Meera Megha Mohini Myra Nandini Neha Nidhi Nisha
        Padma Pallavi Pari Parvati Pooja Prachi Pranavi Preeti Priya Priyanka Radha Radhika Rani Rashmi
        Rekha Riya Rohini Roshni Ruchi Saanvi Sadhana Sandhya Sangita Sarita Saroja Shalini Shanti Sharada
        Shilpa Shreya Shruti Sita Smita Sneha Sonia Sudha Sujata Sulochana Suman Sunita Sushma Swati Tanvi
        Tara Trisha Uma Usha Vandana Vani Vasudha Vidya Vimala Yamini Zara"""),
    Culture.JAPANESE_LATIN: [
        start + end
        for start in _words(
            "Aya Asa Emi Haru Hana Kana Kazu Mai Mana Mayu Mi Nao Rei Rina Saki Sayu Tomo Yu Yoshi"
        )
        for end in _words("ka ko mi na no ri e yo")
    ],
    Culture.JAPANESE: [
        start + end
        for start in _words("美 優 明 陽 由 真 千 彩 恵 和 幸 結 愛 桜 花 智")
        for end in _words("子 美 香 奈 菜 恵 代 里 乃 穂")
    ],
    Culture.THAI_LATIN: [
        start + end
        for start in _words("Sup Kan Nat Nap Piy Rat Sir Som Sun Tha Wan Wil")
        for end in _words("aporn aya chaya da isara jira lada nicha orn panee wan")
    ],
    Culture.THAI: [
        start + end
        for start in _words("สุ กา ณัฐ นภา ปิย รัต ศิริ สม สุนิ ธิ วัน วิ")
        for end in _words("พร ญา ธิดา ดา รา นี วรรณ ลักษณ์ มาศ รัตน์ พา")
    ],
}
_MEN = {
    Culture.WESTERN: _words("""Liam Noah Oliver Elijah William James Benjamin Lucas Henry Alexander Mason Michael
        Ethan Daniel Jacob Logan Jackson Levi Sebastian Mateo Jack Owen Theodore Aiden Samuel Joseph John
        David Wyatt Matthew Luke Asher Carter Julian Grayson Leo Jayden Gabriel Isaac Lincoln Anthony
        Hudson Dylan Ezra Thomas Charles Christopher Jaxon Maverick Josiah Isaiah Andrew Elias Joshua
        Nathan Caleb Ryan Adrian Miles Eli Nolan Christian Aaron Cameron Ezekiel Colton Luca Landon Hunter
        Jonathan Santiago Axel Easton Cooper Jeremiah Angel Roman Connor Jameson Robert Greyson Jordan Ian
        Carson Jaxson Leonardo Nicholas Dominic Austin Everett Brooks Xavier Kai Jose Parker Adam Jace
        Wesley Kayden Silas Bennett Declan Waylon Weston Evan Emmett Micah Ryder Beau Damian Brayden Gael
        Rowan Harrison Bryson Sawyer Amir Kingston Jason Giovanni Vincent Ayden Chase Myles Diego Nathaniel
        Legend Jonah River Tyler Cole Braxton George Milo Zachary Ashton Luis Jasper Kaiden Adriel Gavin
        Bentley Calvin Zion Juan Maxwell Max Ryker Carlos Emmanuel Jayce Lorenzo Ivan Jude August Kevin
        Malachi Elliott Rhett Archer Karter Arthur Luka Elliot Thiago Brandon Camden Justin Jesus Maddox
        King Theo Enzo Matteo Emiliano Dean Hayden Finn Brody Antonio Abel Alex Tristan Graham Zayden Judah
        Xander Miguel Atlas Messiah Barrett Tucker Timothy Alan Edward Leon Dawson Eric Ace Victor Abraham
        Nicolas Jesse Charlie Patrick Walker Joel Richard Beckett Blake Alejandro Avery Grant Peter Oscar
        Matias Amari Lukas Andres Arlo Colt Adonis Kyrie Steven Felix Preston Marcus Holden Emilio Remington
        Jeremy Kaleb Brantley Bryce Mark Knox Israel Phoenix Kobe Nash Griffin Caden Kenneth Kyler Hayes
        Jax Rafael Beckham Javier Maximus Simon Paul Donald Gary Frank Dennis Jerry Raymond Walter Harold
        Jean-Pierre François Jürgen Søren Åke José Muñoz-Luis Bjørn Łukasz Jiří D'Angelo Günther"""),
    Culture.INDIAN: _words("""Aarav Abhishek Aditya Ajay Akash Amar Amit Anand Anil Arjun Arun Ashok Ashwin Ayaan
        Bharat Chandra Chetan Darshan Deepak Dev Dhruv Dinesh Ganesh Gaurav Girish Gopal Gurpreet Hari
        Harish Hemant Ishaan Jagdish Jai Jatin Kabir Kailash Karan Kartik Kiran Krishna Kunal Lalit Lokesh
        Madhav Mahesh Manish Manoj Mohan Mohit Mukesh Murali Nagesh Naresh Naveen Nikhil Nitin Om Pankaj
        Parth Pradeep Prakash Pranav Prasad Praveen Rahul Raj Rajan Rajesh Rakesh Ram Ramesh Ravi Reyansh
        Rishi Rohan Rohit Sachin Sai Sameer Sandeep Sanjay Santosh Sarath Satish Shankar Shiv Shyam
        Siddharth Srinivas Sudhir Sunil Suraj Suresh Tarun Uday Umesh Varun Venkat Vihaan Vijay Vikram
        Vinay Vinod Vishal Vivaan Vivek Yash"""),
    Culture.JAPANESE_LATIN: [
        start + end
        for start in _words(
            "Aki Dai Haru Hide Hiro Kazu Ken Kei Masa Nobu Ryo Ryu Shin Sho Taka Take Toshi Yasu Yoshi Yu"
        )
        for end in _words("aki hiko hiro ki suke ta to ya ji")
    ],
    Culture.JAPANESE: [
        start + end
        for start in _words("大 翔 健 和 正 秀 一 雄 隆 直 浩 康 俊 誠 賢 拓")
        for end in _words("太 也 人 樹 一 郎 介 之 彦 夫")
    ],
    Culture.THAI_LATIN: [
        start + end
        for start in _words("Som Anu Chai Kit Narong Pra Sak Sur Tha Wit Att Kri")
        for end in _words("chai sak pong wat rit thep nat korn phan dech pol")
    ],
    Culture.THAI: [
        start + end
        for start in _words("สม อนุ ชัย กิตติ ณรงค์ ประ ศักดิ์ สุร ธน วิทย์ อรรถ กฤษ")
        for end in _words("ชัย ศักดิ์ พงษ์ วัฒน์ ฤทธิ์ เทพ ณัฐ กร พันธ์ เดช พล")
    ],
}
_COMMON_SURNAMES = _words("""Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez
    Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark
    Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson
    Baker Hall Rivera Campbell Mitchell Carter Roberts Gomez Phillips Evans Turner Diaz Parker Cruz Edwards
    Collins Reyes Stewart Morris Morales Murphy Cook Rogers Gutierrez Ortiz Morgan Cooper Peterson Bailey Reed
    Kelly Howard Ramos Kim Cox Ward Richardson Watson Brooks Chavez Wood James Bennett Gray Mendoza Ruiz Hughes
    Price Alvarez Castillo Sanders Patel Myers Long Ross Foster Jimenez O'Brien O'Neill O'Connor D'Souza D'Amico
    McDonald MacLeod Müller Schröder Groß Jörgensen Ångström Søndergaard Peña Núñez Ibáñez Château Lefèvre
    Dvořák Wałęsa Çelik Van_der_Berg De_la_Cruz Von_Trapp St._John Smith-Jones Garcia-Lopez Saint-Exupéry""")
_WESTERN_STEMS = _words("""Ash Black Brad Brook Burn Carl Chest Clif Colt Crow Dal Den Drey East Ed Elm Fair Far Field
    Frank Glen Gold Grant Green Hal Ham Hart Hath Haw Hazel Hen High Holl Hunt Kil Kings Lang Lea Lind Lock Lyn
    Mal Mar Mid Mill Nor North Oak Old Pem Pres Quin Rad Ray Red Rock Roth Sand Shel Sher South Spring Stan
    Stock Sut Thorn Tren Ul Wake Wal War Wash West Whit Win Wood Wyn York""")
_WESTERN_ENDS = _words("""berg borough bridge brook bury by combe cott dale den don feld field ford gate ham hurst
    ington land ley lin low man mann mere more ney over ridge rick sen shaw son stead stein ster stone strom
    ton vale ville wall ward water way well wick win wood worth""")
_INDIAN_STEMS = _words("""Agar Anan Bal Ban Bhat Chandra Chatter Das Desh Dev Gan Gop Gup Hari Iyen Jag Kal Kap Kri Kul
    Lakh Mad Mal Man Meh Muk Nag Nam Nar Pad Pat Pra Pur Raj Ram Red Sar Sat Sha Shas Sing Srin Sub Sur Tal Tri
    Ven Ver Vish Yad""")
_INDIAN_ENDS = _words("""a ade agar al an ani ar aria ary as athan av awat ekar eshan idi ikar ilal inath ingh ivas
    jee kar kumar kutty la ma mani murthy nath oor pal pati poor rao samy swamy tha thi uri van vedi wal wala""")
_JAPANESE_LATIN_STEMS = _words("""Yama Taka Naka Ishi Ko Matsu Saka Fuji Ino Kawa Kita Kuro Mae Mina Miya Mori Mura
    Nishi No Oka Ono Shima Sugi Suzu Ta Take Toku Uchi Ue Waka Yoko Yoshi Haya Hira Hashi Kishi Aka Ao Ara""")
_JAPANESE_LATIN_ENDS = _words("""da gawa guchi hara hashi i ki kawa kura ma mi moto mura no oka saki sato shima shita
    su ta tani ue uchi yama ya zaki zawa be bayashi""")
_JAPANESE_STEMS = _words(
    "山 高 中 石 小 松 坂 藤 井 川 北 黒 前 南 宮 森 村 西 野 岡 島 杉 鈴 田 竹 徳 内 上 若 横 吉 林 平 橋"
)
_JAPANESE_ENDS = _words("田 川 口 原 橋 井 木 倉 間 見 本 村 野 岡 崎 島 下 谷 上 内 山 屋 沢 部 林 藤")
_THAI_LATIN_STEMS = _words("""Srisu Phong Sae Wong Kitti Chai Rattana Suwan Thong Boon Char Deva Intha Jaroen Kaew
    Limp Maha Narin Orn Pan Ruang Som Taksin Udom Viri Wat Yod Anan Bunya Chanta""")
_THAI_LATIN_ENDS = _words("""chai charoen kul phan porn rat sakul siri sombat suk thong wan wat wong yakul
    anon boon det kasem korn mit nukul pat sawat thep""")
_THAI_STEMS = _words(
    "ศรี พงษ์ วงศ์ กิตติ ชัย รัตน สุวรรณ ทอง บุญ เจริญ เทว อินทร แก้ว มหา นรินทร์ อร พันธุ์ เรือง สม อุดม วิริ ยอด อนันต์ จันทร์"
)
_THAI_ENDS = _words(
    "ชัย เจริญ กุล พันธ์ พร รัตน์ สกุล ศิริ สมบัติ สุข ทอง วรรณ วัฒน์ วงศ์ ยกุล บุญ เดช เกษม กร มิตร นุกูล สวัสดิ์ เทพ"
)


def _joined(stems: list[str], ends: list[str]) -> list[str]:
    # Ends in the outer loop: the common front of the pool then has many stems, not one stem with all ends.
    return [stem + end for end in ends for stem in stems]


@cache
def first_names() -> NamePool:
    """First names; group = culture * 2 + female."""
    return NamePool.of([pool[culture] for culture in Culture for pool in (_MEN, _WOMEN)])


@cache
def surnames() -> NamePool:
    """Surnames; group = culture."""
    common = [name.replace("_", " ") for name in _COMMON_SURNAMES]
    return NamePool.of(
        [
            common + _joined(_WESTERN_STEMS, _WESTERN_ENDS),
            _joined(_INDIAN_STEMS, _INDIAN_ENDS),
            _joined(_JAPANESE_LATIN_STEMS, _JAPANESE_LATIN_ENDS),
            _joined(_JAPANESE_STEMS, _JAPANESE_ENDS),
            _joined(_THAI_LATIN_STEMS, _THAI_LATIN_ENDS),
            _joined(_THAI_STEMS, _THAI_ENDS),
        ]
    )
